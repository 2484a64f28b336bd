"""Batches of close-ups with their truth, and the loss of the network that sees them.

A close-up is cut out of a view as the pipeline cuts it (:mod:`hamst3r.people.closeups`), but not as
well centred, turned, mirrored, and photographed by a random camera. Nearly half of them are of what
the pair network takes for people in these very scenes, rightly or not: it is their masks, often of
half a person or of two, that lead to close-ups. Without them a network knows people from walls, and
no better what it will be asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import NamedTuple
from weakref import WeakKeyDictionary

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hamst3r.engine import PairEngine
from hamst3r.frames import Frame
from hamst3r.geometry import F64
from hamst3r.image import NetworkImage, corners, inside, prepare, resampling, square
from hamst3r.network.closeup import STRIDE, CloseupOutput
from hamst3r.people.instances import merge_instances
from hamst3r.people.votes import InstancesConfig
from hamst3r.synthetic.sensor import photograph
from hamst3r.training.losses import mean_where, template_extent
from hamst3r.training.store import SceneBank, StoredScene

CLAIMED, ELSEWHERE = 0.45, 0.12  # shares of the close-ups of claims, and of whatever is there
FILLED = (0.5, 1.0)  # share of the side that somebody fills
OFF = 0.09  # most of the side by which somebody is not in the middle
TURNED, MOST_TURNED = 0.35, 0.7  # share of the close-ups that are, and by how much: radians
LEAST_PIXELS, LEAST_SIDE = 150, 34  # of somebody in the scene's image who can be recognised
ANYBODY = 0.08  # share of the middle from which people there may be meant
LIKELY, SCORE = 0.15, 0.08  # least probability and score of a claim
MEANT, PARTLY, MOSTLY = 0.35, 0.15, 0.5  # share of a claim that is somebody's; and of the person
MISTAKEN = 0.1  # share of a claim up to which it is nobody's
# Middle and deviation of body coordinates x and z, averaged over what is seen of a person.
_SIDES = torch.tensor([[0.5, 0.38], [0.0625, 0.137]])
_FEWEST = 12  # pixels of a body whose side is known


@dataclass(frozen=True)
class CloseupBatch:
    """Images (B, 3, S, S) in [-1, 1], 0 beyond the edge of the view, and their truth.

    Attributes:
        person: (B,) 1 where somebody is meant, else 0. judged: (B,) bool, whether that is so: what
            happens to show people is neither.
        mask, body: (B, h, w) bool: pixels of whom is meant, and of anybody's body.
        densepose: (B, h, w, 3) in [0, 1], where ``body``.
    """

    images: Tensor
    person: Tensor
    judged: Tensor
    mask: Tensor
    body: Tensor
    densepose: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> CloseupBatch:
        """The same on another device."""
        return CloseupBatch(*(getattr(self, part.name).to(device) for part in fields(self)))


@dataclass(frozen=True)
class CloseupWeights:
    """Of the parts of the loss."""

    person: float = 0.5
    mask: float = 1.0
    dice: float = 1.0
    body: float = 1.0
    densepose: float = 4.0
    side: float = 1.0


@dataclass(frozen=True)
class Claims:
    """What a pair network takes for people in a scene.

    Attributes:
        views: (N,). boxes: (N, 2, 2) edges in the view, pixel centres at integers. ids: (N,) who it
            is, 0 = nobody.
    """

    views: NDArray[np.int64]
    boxes: F64
    ids: NDArray[np.int64]


class Claimant:
    """Asks a pair network for claims, of each scene once.

    Args:
        engine: Runs the network.
    """

    def __init__(self, engine: PairEngine) -> None:
        self._engine = engine
        self._known: WeakKeyDictionary[StoredScene, Claims] = WeakKeyDictionary()

    def __call__(self, scene: StoredScene) -> Claims:
        """Of all views, each in a pair with another."""
        if scene not in self._known:
            self._known[scene] = self._claims(scene)
        return self._known[scene]

    def _claims(self, scene: StoredScene) -> Claims:
        engine, number = self._engine, len(scene.K)
        frames = [
            Frame(str(view), 0, rgb.permute(1, 2, 0).contiguous().cpu().numpy())
            for view, rgb in enumerate(scene.rgb)
        ]
        images = [prepare(f, engine.image_size, engine.patch, engine.stride) for f in frames]
        edges = [(view, (view + 1) % number) for view in range(0, number, 2)]
        predictions = engine.predict(images, edges)
        config = replace(InstancesConfig(), min_probability=LIKELY, doubtful_score=SCORE)
        found = [
            (view, corners(people.claimed == k, images[view].T_image_grid), who)
            for view, people in enumerate(
                merge_instances(predictions, [image.grid for image in images], config)
            )
            for k in people.scores
            if (who := _meant(people.claimed == k, scene, view, images[view])) is not None
        ]
        views, boxes, ids = zip(*found, strict=True) if found else ((), (), ())
        return Claims(
            np.array(views, np.int64), np.array(boxes).reshape(-1, 2, 2), np.array(ids, np.int64)
        )


def _meant(
    claim: NDArray[np.bool_], scene: StoredScene, view: int, image: NetworkImage
) -> int | None:
    """Whom a mask (gh, gw) of a view means: an id, 0 for nobody, None if that is hard to say."""
    people = scene.labels[view, 0].cpu().numpy()
    T = image.T_image_grid
    rows, columns = (
        np.rint(T[axis, axis] * np.arange(cells) + T[axis, 2]).clip(0, people.shape[1 - axis] - 1)
        for axis, cells in ((1, claim.shape[0]), (0, claim.shape[1]))
    )
    shown = people[np.ix_(rows.astype(int), columns.astype(int))]
    common = np.bincount(shown[claim], minlength=256)
    common[0] = 0
    who = int(common.argmax())
    share = common[who] / max(claim.sum(), 1)
    whole = (shown == who).sum()
    if share > MEANT or (share > PARTLY and common[who] > MOSTLY * whole):
        return who
    return 0 if share < MISTAKEN else None


class CloseupSampler:
    """Draws batches; all of their randomness is the given generator's.

    Args:
        bank: Scenes to draw from. side: Of the images, pixels.
        claims: Of a scene.
        augment: Turned, mirrored, off the middle, photographed.
    """

    def __init__(
        self,
        bank: SceneBank,
        side: int,
        rng: np.random.Generator,
        claims: Callable[[StoredScene], Claims],
        augment: bool = True,
    ) -> None:
        self.bank, self.side, self.augment = bank, side, augment
        self._rng, self._claims = rng, claims

    def batch(self, count: int) -> CloseupBatch:
        """A batch of ``count`` close-ups; raises FileNotFoundError if there are no scenes."""
        if not self.bank.paths:
            self.bank.refresh()
        cuts: list[_Cut] = []
        while len(cuts) < count:
            picks = self._rng.integers(len(self.bank.paths), size=count - len(cuts))
            scenes = self.bank.get([self.bank.paths[k] for k in picks])
            if None in scenes:
                self.bank.refresh()
            looks = [(scene, self._look(scene)) for scene in scenes if scene is not None]
            cuts += [self._cut(scene, look) for scene, look in looks if look is not None]
        shown = torch.from_numpy(np.stack([cut.rgb for cut in cuts])).permute(0, 3, 1, 2) / 255
        if self.augment:
            shown = photograph(shown, self._rng)
        there = torch.from_numpy(np.stack([cut.there for cut in cuts]))
        return _batch((shown * 2 - 1) * there[:, None], cuts)

    def _look(self, scene: StoredScene) -> _Look | None:
        """Something in a scene: a claim, whatever is there, or somebody."""
        rng, kind = self._rng, self._rng.random()
        height, width = scene.depth.shape[1:]
        if kind < ELSEWHERE:
            middle = np.array([width, height]) * rng.random(2) - 0.5
            span = max(width, height) * np.exp(rng.uniform(np.log(0.08), np.log(0.6)))
            return _Look(int(rng.integers(len(scene.K))), middle, span, 0)
        if kind < ELSEWHERE + CLAIMED:
            claims = self._claims(scene)
            if not len(claims.ids):
                return None
            k = int(rng.integers(len(claims.ids)))
            box = claims.boxes[k]
            return _Look(
                int(claims.views[k]), box.mean(0), np.ptp(box, 0).max(), int(claims.ids[k])
            )
        spans = (scene.boxes[:, :, 1] - scene.boxes[:, :, 0] + 1).max(-1)
        clear = np.argwhere(
            (scene.shown * height * width >= LEAST_PIXELS) & (spans >= LEAST_SIDE)
        ).tolist()
        if not clear:
            return None
        row, view = clear[rng.integers(len(clear))]
        return _Look(view, scene.boxes[row, view].mean(0), spans[row, view], int(scene.ids[row]))

    def _cut(self, scene: StoredScene, look: _Look) -> _Cut:
        T, mirrored = self._place(look.middle, look.span)
        rgb = scene.rgb[look.view].permute(1, 2, 0).contiguous().numpy()
        T_grid = T @ np.linalg.inv(resampling(1 / STRIDE, 1 / STRIDE))
        size = (self.side // STRIDE, self.side // STRIDE)
        flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
        planes = scene.labels[look.view].numpy()
        labels = [cv2.warpAffine(plane, T_grid[:2], size, flags=flags) for plane in planes]
        there = inside(rgb.shape[1::-1], T, self.side)
        return _Cut(square(rgb, T, self.side), there, np.stack(labels), mirrored, look.who)

    def _place(self, middle: F64, longest: float) -> tuple[F64, bool]:
        """(3, 3) pixel map from a close-up to the view, and whether it mirrors."""
        rng, filled, turn, mirrored = self._rng, float(np.mean(FILLED)), 0.0, False
        if self.augment:
            filled = rng.uniform(*FILLED)
            middle = middle + 2 * longest * rng.uniform(-OFF, OFF, 2)
            turn = rng.uniform(-MOST_TURNED, MOST_TURNED) * (rng.random() < TURNED)
            mirrored = bool(rng.random() < 0.5)
        scale = longest / (filled * self.side)
        cosine, sine = scale * np.cos(turn), scale * np.sin(turn)
        axes = np.array([[cosine, -sine], [sine, cosine]])
        if mirrored:
            axes[:, 0] *= -1
        T = np.eye(3)
        T[:2, :2] = axes
        T[:2, 2] = middle - axes @ np.full(2, (self.side - 1) / 2)
        return T, mirrored


class _Look(NamedTuple):
    """At a square of a view: its middle, how long whoever is there is, and the id (0: nobody)."""

    view: int
    middle: F64
    span: float
    who: int


class _Cut(NamedTuple):
    """(S, S, 3) uint8, what of it is on the view, labels (5, h, w), whether it is mirrored."""

    rgb: NDArray[np.uint8]
    there: NDArray[np.bool_]
    labels: NDArray[np.uint8]
    mirrored: bool
    who: int


def _batch(images: Tensor, cuts: list[_Cut]) -> CloseupBatch:
    labels = torch.from_numpy(np.stack([cut.labels for cut in cuts]))
    mirrored = torch.tensor([cut.mirrored for cut in cuts])
    ids = torch.tensor([cut.who for cut in cuts])
    people, meant = labels[:, 0].long(), ids > 0
    quarter = people.shape[1] // 4
    middle = people[:, quarter:-quarter, quarter:-quarter]
    densepose = labels[:, 1:4].permute(0, 2, 3, 1).float() / 255
    # The mirrored person's left is the right: the template is symmetric in x.
    x = densepose[..., 0]
    densepose[..., 0] = torch.where(mirrored[:, None, None], 1 - x, x)
    return CloseupBatch(
        images=images,
        person=meant.float(),
        judged=meant | ((middle > 0).float().mean((1, 2)) < ANYBODY),
        mask=(people == ids[:, None, None]) & meant[:, None, None],
        body=labels[:, 4] > 0,
        densepose=densepose,
    )


def seen_side(batch: CloseupBatch) -> tuple[Tensor, Tensor]:
    """(B, 2) unit vectors to the side of the body that is seen, left and front, and (B,) whether
    that is known: whose mean place on the body is on the left is seen from there."""
    shown = (batch.mask & batch.body)[..., None]
    number = shown.sum((1, 2))
    mean = (batch.densepose * shown)[..., [0, 2]].sum((1, 2)) / number.clamp_min(1)
    middle, deviation = _SIDES.to(mean.device)
    return F.normalize((mean - middle) / deviation, dim=1), number[:, 0] >= _FEWEST


def closeup_loss(
    output: CloseupOutput, batch: CloseupBatch, weights: CloseupWeights
) -> tuple[Tensor, dict[str, Tensor]]:
    """The training loss, and its parts for the log.

    Cross-entropies of who is a person and of both masks, dice of the person's, the distance of body
    coordinates in metres, and the squared one of the side that is seen.

    Coordinates alone teach which way somebody faces late: their first answer is the middle.
    """
    entropy = F.binary_cross_entropy_with_logits
    meant = (batch.person > 0)[:, None, None]
    mask = batch.mask.float()
    said = output.mask_logits.sigmoid()
    common, both = (said * mask).sum((1, 2)), (said + mask).sum((1, 2))
    side, known = seen_side(batch)
    apart = (output.densepose - batch.densepose) * template_extent(output.densepose.device)
    parts = {
        "person": mean_where(
            entropy(output.person_logit, batch.person, reduction="none"), batch.judged
        ),
        "mask": mean_where(
            entropy(output.mask_logits, mask, reduction="none"), meant.expand_as(mask)
        ),
        "dice": mean_where(1 - (2 * common + 1) / (both + 1), meant[:, 0, 0]),
        "body": entropy(output.body_logits, batch.body.float()),
        "densepose": mean_where((apart.square().sum(-1) + 1e-8).sqrt(), batch.body),
        "side": mean_where((output.side - side).square().sum(1), known),
    }
    loss = torch.stack([getattr(weights, name) * part for name, part in parts.items()]).sum()
    return loss, {name: value.detach() for name, value in parts.items()}
