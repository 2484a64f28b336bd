// A small WebGL2 viewer of the report's scenes; the page defines SETS. Drag turns, Shift or the
// right button moves, the wheel comes nearer.
"use strict";
(() => {
  const canvas = document.getElementById("view");
  const labels = document.getElementById("labels");
  const gl = canvas.getContext("webgl2", { antialias: true, preserveDrawingBuffer: true });
  if (!gl) {
    document.getElementById("hint").textContent =
      "This browser shows no 3D (WebGL2 is off); the pictures below need none.";
    return;
  }
  const decode = (text, Type) =>
    new Type(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);

  const compile = (vertex, fragment) => {
    const program = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, "#version 300 es\nprecision highp float;\n" + text);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw gl.getProgramInfoLog(program);
    return program;
  };
  const plain = compile(
    `in vec3 at; in vec3 rgb; uniform mat4 M; uniform float size; out vec3 c; out vec3 w;
     void main() { gl_Position = M * vec4(at, 1.0); gl_PointSize = clamp(size / gl_Position.w, 1.5, 14.0);
                   c = rgb; w = at; }`,
    `in vec3 c; in vec3 w; uniform bool lit; out vec4 o;
     void main() { float s = 1.0;
       if (lit) { vec3 n = normalize(cross(dFdx(w), dFdy(w))); s = 0.45 + 0.55 * abs(dot(n, normalize(vec3(0.4, 0.3, 0.85)))); }
       o = vec4(c * s, 1.0); }`);
  const where = (name) => gl.getUniformLocation(plain, name);

  const buffers = (positions, colors, faces) => {
    const array = gl.createVertexArray();
    gl.bindVertexArray(array);
    for (const [name, data, kind, normal] of
         [["at", positions, gl.FLOAT, false], ["rgb", colors, gl.UNSIGNED_BYTE, true]]) {
      gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
      gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
      const slot = gl.getAttribLocation(plain, name);
      gl.enableVertexAttribArray(slot);
      gl.vertexAttribPointer(slot, 3, kind, normal, 0, 0);
    }
    if (faces) {
      gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
      gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, faces, gl.STATIC_DRAW);
    }
    gl.bindVertexArray(null);
    return { array, count: faces ? faces.length : positions.length / 3, indexed: !!faces };
  };

  const loaded = SETS.map((set) => {
    const xyz = decode(set.xyz, Float32Array);
    const clouds = {};
    for (const [name, text] of Object.entries(set.colors)) {
      clouds[name] = buffers(xyz, decode(text, Uint8Array));
    }
    const lines = buffers(decode(set.lines, Float32Array), decode(set.line_colors, Uint8Array));
    const bodies = set.faces
      ? buffers(decode(set.vertices, Float32Array), decode(set.body_colors, Uint8Array),
                decode(set.faces, Uint32Array))
      : null;
    return { clouds, lines, bodies, labels: set.labels };
  });

  const state = { set: 0, color: Object.keys(SETS[0].colors)[0], points: true, yaw: VIEW.yaw, pitch: VIEW.pitch,
                  away: VIEW.away, target: VIEW.target.slice() };

  const axes = () => {
    const [sy, cy, sp, cp] = [Math.sin(state.yaw), Math.cos(state.yaw),
                              Math.sin(state.pitch), Math.cos(state.pitch)];
    return { right: [-sy, cy, 0], up: [-cy * sp, -sy * sp, cp], back: [cy * cp, sy * cp, sp] };
  };
  const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];

  const projection = (width, height) => {
    const { right, up, back } = axes();
    const eye = state.target.map((t, k) => t + state.away * back[k]);
    const f = 1 / Math.tan(0.4), near = 0.02 * state.away, far = 40 * state.away;
    const x = f / Math.max(width / height, 1), y = x * width / height;
    const a = (far + near) / (near - far), b = (2 * far * near) / (near - far);
    const rows = [
      [...right.map((v) => v * x), -dot(right, eye) * x],
      [...up.map((v) => v * y), -dot(up, eye) * y],
      [...back.map((v) => v * a), -dot(back, eye) * a + b],
      [...back.map((v) => -v), dot(back, eye)],
    ];
    const M = new Float32Array(16);
    rows.forEach((row, r) => row.forEach((v, c) => { M[4 * c + r] = v; }));
    return M;
  };

  const draw = () => {
    const ratio = window.devicePixelRatio || 1;
    const width = canvas.clientWidth, height = canvas.clientHeight;
    canvas.width = width * ratio; canvas.height = height * ratio;
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clearColor(0.07, 0.08, 0.1, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.enable(gl.DEPTH_TEST);
    gl.useProgram(plain);
    const M = projection(width, height), set = loaded[state.set];
    gl.uniformMatrix4fv(where("M"), false, M);
    gl.uniform1f(where("size"), VIEW.point * canvas.height);
    const show = (part, mode, lit) => {
      gl.uniform1i(where("lit"), lit ? 1 : 0);
      gl.bindVertexArray(part.array);
      if (part.indexed) gl.drawElements(mode, part.count, gl.UNSIGNED_INT, 0);
      else gl.drawArrays(mode, 0, part.count);
    };
    if (state.points) show(set.clouds[state.color], gl.POINTS, false);
    if (set.bodies) show(set.bodies, gl.TRIANGLES, true);
    show(set.lines, gl.LINES, false);
    labels.replaceChildren();
    for (const { text, at, color } of set.labels) {
      const p = [0, 1, 3].map((r) => M[r] * at[0] + M[4 + r] * at[1] + M[8 + r] * at[2] + M[12 + r]);
      if (p[2] <= 0 || Math.abs(p[0]) > p[2] || Math.abs(p[1]) > p[2]) continue;
      const label = document.createElement("span");
      label.textContent = text;
      label.style.color = color;
      label.style.left = `${(0.5 + 0.5 * p[0] / p[2]) * width}px`;
      label.style.top = `${(0.5 - 0.5 * p[1] / p[2]) * height}px`;
      labels.append(label);
    }
  };

  let held = null;
  canvas.addEventListener("contextmenu", (e) => e.preventDefault());
  canvas.addEventListener("pointerdown", (e) => {
    held = { x: e.clientX, y: e.clientY, move: e.button === 2 || e.shiftKey };
    canvas.setPointerCapture(e.pointerId);
  });
  canvas.addEventListener("pointerup", () => { held = null; });
  canvas.addEventListener("pointermove", (e) => {
    if (!held) return;
    const dx = e.clientX - held.x, dy = e.clientY - held.y;
    held.x = e.clientX; held.y = e.clientY;
    if (held.move) {
      const { right, up } = axes(), step = 0.85 * state.away / canvas.clientHeight;
      state.target = state.target.map((t, k) => t - step * dx * right[k] + step * dy * up[k]);
    } else {
      state.yaw -= 0.007 * dx;
      state.pitch = Math.min(1.55, Math.max(-1.55, state.pitch + 0.007 * dy));
    }
    draw();
  });
  canvas.addEventListener("wheel", (e) => {
    e.preventDefault();
    state.away *= Math.exp(0.001 * e.deltaY);
    draw();
  }, { passive: false });
  window.addEventListener("resize", draw);

  const buttons = document.getElementById("buttons");
  const choice = (name, items, value) => {
    const select = document.createElement("select");
    select.setAttribute("aria-label", name);
    items.forEach(([text, v]) => select.add(new Option(text, v)));
    select.value = value;
    buttons.append(select);
    return select;
  };
  const color = choice("colour", Object.keys(SETS[0].colors).map((n) => [`colour: ${n}`, n]), state.color);
  color.addEventListener("change", () => { state.color = color.value; draw(); });
  if (SETS.length > 1) {
    const set = choice("time", SETS.map((s, k) => [s.title, k]), 0);
    set.addEventListener("change", () => { state.set = Number(set.value); draw(); });
  }
  draw();
})();
