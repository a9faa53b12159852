"""Subspaces of features: a basis, what of a feature lies outside of it, how much of many lies within.

Source: arXiv 2601.13578. This module knows nothing of models.
"""

from __future__ import annotations

import torch
from torch import Tensor

STEPS = 30
"""Steps of :func:`polar`. A singular value grows by half in each until it is 1: below 1e-5 of ‖M‖_F, where
float32 has noise only, it does not get there."""


def basis_of(features: Tensor, energy: float) -> Tensor:
    """Return an orthonormal basis P (D, k) of the rows of ``features`` F (N, D).

    Its columns are right singular vectors of the Gram matrix FᵀF, as few as hold at least the share
    ``energy`` of its squared singular values.
    """
    _, values, rows = torch.linalg.svd(features.T @ features)
    held = values.square().cumsum(0)
    count = 1 + int((held[:-1] < energy * held[-1]).sum())
    found: Tensor = rows[:count].T
    return found


def outside(features: Tensor, basis: Tensor) -> Tensor:
    """Return F (I − P Pᵀ), what of rows F (N, D) lies outside the span of an orthonormal P (D, k)."""
    return features - features @ basis @ basis.T


def polar(matrix: Tensor) -> Tensor:
    """Return U Vᵀ of M = U S Vᵀ (N, D), without the wait for the device that a decomposition takes.

    By Newton's and Schulz's iteration X ← ³⁄₂ X − ½ X Xᵀ X from M / ‖M‖_F, whose fixed points have singular
    values 1 and 0. Source: Higham, "Functions of Matrices", 2008, chapter 8.
    """
    if len(matrix) < matrix.shape[1]:
        return polar(matrix.T).T
    x: Tensor = matrix / torch.linalg.vector_norm(matrix).clamp_min(torch.finfo(matrix.dtype).tiny)
    for _ in range(STEPS):
        x = 1.5 * x - 0.5 * x @ (x.T @ x)
    return x


def nuclear_norm(matrix: Tensor) -> Tensor:
    """Return ‖M‖_*, the sum of M's singular values, as ⟨U Vᵀ, M⟩; U Vᵀ is its gradient as well."""
    with torch.no_grad():
        direction = polar(matrix)
    return (direction * matrix).sum()
