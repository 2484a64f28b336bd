"""Where a person will be: a constant-velocity Kalman filter in three dimensions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

_ACCELERATION = 3.0  # metres per second squared, one deviation: people start and stop at will
_FIRST_SPEED = 1.0  # metres per second, deviation before any motion was seen
_SURPRISE = 16.0  # squared deviations, of three dimensions: one in a thousand
_COASTING = 0.7  # seconds after which an unseen person has most likely slowed down


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

    def predict(self, dt: float, seen: bool = True) -> None:
        """Advance by ``dt`` >= 0 seconds; the velocity of an unseen person fades."""
        fade = 1.0 if seen else float(np.exp(-dt / _COASTING))
        move = np.eye(6)
        move[:3, 3:] = np.eye(3) * dt
        move[3:, 3:] *= fade
        noise = np.kron([[dt**4 / 4, dt**3 / 2], [dt**3 / 2, dt**2]], np.eye(3))
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
