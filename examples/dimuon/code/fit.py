"""Fit the dimuon mass spectrum by maximum likelihood and write the result with its errors."""

import argparse
import json
import math
from pathlib import Path

import lineshape
import numpy as np


def deviance(counts: np.ndarray, mean: np.ndarray) -> float:
    """-2 ln of the Poisson likelihood ratio to the perfect model: it is distributed like a chi-square."""
    return float(np.sum(lineshape.residuals(counts, mean) ** 2))


def maximise(
    counts: np.ndarray, edges: np.ndarray, parameters: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Best parameters, their covariance and the deviance, by damped Fisher scoring."""

    def model(values: np.ndarray) -> np.ndarray:
        return np.maximum(sum(lineshape.expected(edges, values)), 1e-9)

    damping, mean = 1e-3, model(parameters)
    current = deviance(counts, mean)
    for _ in range(200):
        steps = 1e-5 * np.maximum(np.abs(parameters), 1e-2)
        gradient = np.array(
            [
                (model(parameters + step) - model(parameters - step)) / (2 * step.sum())
                for step in np.diag(steps)
            ]
        ).T
        information = gradient.T @ (gradient / mean[:, None])
        score = gradient.T @ (counts / mean - 1)
        while True:
            damped = information + damping * np.diag(np.diag(information))
            trial = parameters + np.linalg.solve(damped, score)
            if trial[1] > 0 and (value := deviance(counts, model(trial))) <= current:
                break
            damping *= 10
            if damping > 1e12:
                return parameters, np.linalg.inv(information), current
        improvement, current = current - value, value
        parameters, mean, damping = trial, model(trial), damping / 10
        if improvement < 1e-10:
            return parameters, np.linalg.inv(information), current
    raise SystemExit("the fit did not converge in 200 iterations")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--histogram", type=Path, required=True, help="edges (GeV) and counts, JSON")
    parser.add_argument("--output", type=Path, required=True, help="result of the fit, JSON")
    arguments = parser.parse_args()

    histogram = json.loads(arguments.histogram.read_text())
    edges, counts = np.array(histogram["edges"]), np.array(histogram["counts"])
    peak = (edges[counts.argmax()] + edges[counts.argmax() + 1]) / 2
    start = np.array([peak, 1.5, 0.9 * counts.sum(), 0.1 * counts.sum(), 0.02])
    best, covariance, chi2 = maximise(counts, edges, start)

    errors = np.sqrt(np.diag(covariance))
    degrees = len(counts) - len(best)
    result = {
        "parameters": {
            name: {"value": round(float(value), 4), "error": round(float(error), 4)}
            for name, value, error in zip(lineshape.PARAMETERS, best, errors, strict=True)
        },
        "natural_width": lineshape.NATURAL_WIDTH,
        "chi2": round(chi2, 3),
        "degrees_of_freedom": degrees,
        "events": int(counts.sum()),
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    for name, value, error in zip(lineshape.PARAMETERS, best, errors, strict=True):
        print(f"{name:>10} = {value:9.4f} +- {error:.4f}")
    print(f"{'chi2':>10} = {chi2:.1f} for {degrees} degrees of freedom")
    if not math.isfinite(chi2) or not np.all(np.isfinite(errors)):
        raise SystemExit("the fit gave no finite result")


if __name__ == "__main__":
    main()
