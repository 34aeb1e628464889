"""The model of the dimuon mass spectrum: a Z boson seen by a detector, and a falling background."""

import numpy as np

NATURAL_WIDTH = 2.4955  # GeV, the world average for the Z boson
PARAMETERS = ("mass", "resolution", "signal", "background", "slope")

_OFFSETS = np.linspace(-5, 5, 201)  # in units of the resolution
_WEIGHTS = np.exp(-0.5 * _OFFSETS**2)
_WEIGHTS /= _WEIGHTS.sum()
_POINTS, _POINT_WEIGHTS = np.polynomial.legendre.leggauss(6)  # on [-1, 1]; the weights add up to 2


def signal_cumulative(x: np.ndarray, mass: float, resolution: float) -> np.ndarray:
    """Integral up to x of a Breit-Wigner convolved with a Gaussian (a Voigt profile of area 1)."""
    centres = mass + resolution * _OFFSETS
    return np.arctan2(x[..., None] - centres, NATURAL_WIDTH / 2) @ _WEIGHTS / np.pi + 0.5


def expected(edges: np.ndarray, parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Expected signal and background counts in each bin.

    `signal` and `background` are the numbers of events between the first and the last edge.
    """
    mass, resolution, signal, background, slope = parameters
    cumulative = signal_cumulative(edges, mass, resolution)
    shape = np.diff(cumulative) / (cumulative[-1] - cumulative[0])
    low, high = edges[:-1, None], edges[1:, None]
    points = (low + high) / 2 + (high - low) / 2 * _POINTS
    falling = np.exp(-slope * (points - edges[0])) @ _POINT_WEIGHTS * np.diff(edges)
    return signal * shape, background * falling / falling.sum()


def residuals(counts: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Signed distance of each bin from the model; the sum of squares is -2 ln of the likelihood ratio."""
    filled = np.maximum(counts, 1)
    squares = 2 * (mean - counts + counts * np.log(filled / mean))
    return np.sign(counts - mean) * np.sqrt(np.maximum(squares, 0))
