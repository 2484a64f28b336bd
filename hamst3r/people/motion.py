"""Where a person will be, and how fast its joints are: constant-velocity Kalman filters."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

_ACCELERATION = 3.0  # metres per second squared, one deviation: people start and stop at will
_FIRST_SPEED = 1.0  # metres per second, deviation before any motion was seen
_SURPRISE = 16.0  # squared deviations, of three dimensions: one in a thousand
_FIRST_JOINT_SPEED = 2.0  # metres per second, as above, of a hand or foot
_JOINT_ACCELERATION = 4.0  # metres per second squared: swinging arms and legs
_LEAST_STD = 1e-3  # metres: places are never surer
_STEADY, _COASTING = 0.25, 0.7  # seconds that a velocity lasts; in which it then falls to 37 %
_CHANGE = 0.5  # seconds in which people reach their speed: no longer do they accelerate


class ConstantVelocity:
    """Position and velocity with covariance.

    Attributes:
        state: (6,) metres and metres per second. covariance: (6, 6).
    """

    def __init__(self, position: F64, covariance: F64) -> None:
        self.state = np.concatenate([position, np.zeros(3)])
        self.covariance = np.zeros((6, 6))
        self.covariance[:3, :3] = covariance
        self.covariance[3:, 3:] = np.eye(3) * _FIRST_SPEED**2

    @property
    def position(self) -> F64:
        """(3,) metres."""
        return self.state[:3]

    @property
    def velocity(self) -> F64:
        """(3,) metres per second."""
        return self.state[3:]

    @property
    def speed_std(self) -> float:
        """Deviation of the velocity per axis, metres per second."""
        return float(np.sqrt(np.trace(self.covariance[3:, 3:]) / 3))

    def predict(self, dt: float, unseen: float = 0.0) -> None:
        """Advance by ``dt`` >= 0 seconds, of somebody not seen for ``unseen`` seconds before.

        Who walks goes on for a moment and then somewhere else: the velocity of long ago says
        nothing of now. In how many steps the time passes makes no difference.
        """
        kept, travelled = _fading(unseen, dt)
        move = np.eye(6)
        move[:3, 3:] = np.eye(3) * travelled
        move[3:, 3:] *= kept
        changing = min(dt, _CHANGE)
        place = changing**2 / 2 + changing * (dt - changing)
        # How far somebody came in a long time says little of the speed at its end.
        both = place * changing * float(np.exp(-dt / _COASTING))
        noise = np.kron([[place**2, both], [both, changing**2]], np.eye(3))
        self.state = move @ self.state
        self.covariance = move @ self.covariance @ move.T + noise * _ACCELERATION**2

    def correct(self, position: F64, covariance: F64) -> bool:
        """Take in a measured position (3,) with its covariance (3, 3).

        Returns:
            False where the position is farther off than either covariance allows: it then counts
            for as little as makes it likely, since one wrong place must not become a speed.
        """
        spread = self.covariance[:3, :3] + covariance
        off = position - self.state[:3]
        surprise = float(off @ np.linalg.solve(spread, off)) / _SURPRISE
        if surprise > 1:
            covariance = covariance + (surprise - 1) * spread
        gain = self.covariance[:, :3] @ np.linalg.inv(self.covariance[:3, :3] + covariance)
        self.state = self.state + gain @ (position - self.state[:3])
        left = np.eye(6)
        left[:, :3] -= gain
        # Joseph's form stays symmetric and positive whatever the rounding.
        self.covariance = left @ self.covariance @ left.T + gain @ covariance @ gain.T
        return surprise <= 1


def _fading(unseen: float, dt: float) -> tuple[float, float]:
    """What is left of a velocity after ``dt`` seconds more without a sight, and the seconds that
    the way since then would have taken at the velocity of before."""
    steady = max(min(_STEADY - unseen, dt), 0.0)
    kept = float(np.exp((steady - dt) / _COASTING))
    return kept, steady + _COASTING * (1 - kept)


class JointMotion:
    """Velocities of the joints of one body: a filter as above for each, alike along all axes.

    Args:
        places: (J, 3) metres. std: (J,) their deviations per axis.

    Attributes:
        places, velocities: (J, 3) metres, and metres per second.
        covariance: (J, 2, 2) of place and velocity, per axis.
    """

    def __init__(self, places: F64, std: F64) -> None:
        self.places, self.velocities = places.astype(float), np.zeros_like(places, dtype=float)
        self.covariance = np.zeros((len(places), 2, 2))
        self.covariance[:, 0, 0] = std**2
        self.covariance[:, 1, 1] = _FIRST_JOINT_SPEED**2

    @property
    def velocity_std(self) -> F64:
        """(J,) metres per second per axis."""
        return np.sqrt(self.covariance[:, 1, 1])

    def step(self, dt: float, places: F64, std: F64) -> None:
        """Advance by ``dt`` >= 0 seconds and take in measured places with their deviations."""
        move = np.array([[1.0, dt], [0.0, 1.0]])
        noise = np.array([[dt**4 / 4, dt**3 / 2], [dt**3 / 2, dt**2]]) * _JOINT_ACCELERATION**2
        spread = move @ self.covariance @ move.T + noise
        off = places - (self.places + dt * self.velocities)
        total = spread[:, 0, 0] + np.maximum(std, _LEAST_STD) ** 2
        # One wrong place must not become a speed: it counts for as little as makes it likely.
        surprise = (off**2).sum(1) / total / _SURPRISE
        total *= np.maximum(surprise, 1.0)
        gain = spread[:, :, 0] / total[:, None]  # (J, 2)
        self.places = self.places + dt * self.velocities + gain[:, :1] * off
        self.velocities = self.velocities + gain[:, 1:] * off
        self.covariance = spread - gain[:, :, None] * spread[:, None, 0]
