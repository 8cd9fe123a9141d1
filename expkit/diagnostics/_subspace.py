"""Principal subspaces of a matrix: exactly, or from the one before; angles between two. No schedule, no names.

A matrix (g, l) has g <= l: a taller one is transposed, so that the subspaces lie in the smaller space.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["alignment", "angles", "follow", "full_svd", "gram_eigh", "iterate", "on_short_side", "squared_norm"]


def on_short_side(weight: Tensor) -> Tensor:
    """Return a matrix (m, n), or its transpose if m > n, in float32: (g, l) with g <= l."""
    # torch has no eigh for Apple's devices.
    matrix: Tensor = (weight.cpu() if weight.device.type == "mps" else weight).detach().float()
    return matrix.T if matrix.shape[0] > matrix.shape[1] else matrix


def squared_norm(matrix: Tensor) -> Tensor:
    """Return ||A||_F^2, float64; NaN where float32 cannot hold the squares."""
    # Line by line: over millions of entries at once, the norm is wrong in the fifth digit on the CPU.
    lines: Tensor = torch.linalg.vector_norm(matrix, dim=1 if matrix.stride(1) == 1 else 0)
    total = lines.double().square().sum()
    return torch.where(torch.isfinite(total), total, math.nan)


def full_svd(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return all squared singular values (g,), falling, and left singular vectors (g, g), by `torch.linalg.svd`."""
    finite = torch.isfinite(matrix).all()
    u, s, _ = torch.linalg.svd(torch.where(finite, matrix, 0.0), full_matrices=False)
    return torch.where(finite, s.double().square(), math.nan), u.contiguous()


def gram_eigh(matrix: Tensor, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Return the same from the eigenvectors of A A^T, computed in `dtype`: squaring halves the digits."""
    wide = matrix.to(dtype)
    squares, vectors = _eigh(wide @ wide.T)
    return squares.double(), vectors.float().contiguous()


def follow(matrix: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Improve the principal subspace of a very similar matrix into this one's, in the fewest products: two.

    One step of subspace iteration (Halko, Martinsson and Tropp 2011, algorithm 4.4), with its Rayleigh-Ritz step
    between the two products, in the larger space: the rows Q^T A, orthonormalised to P^T, and the SVD of A P.

    Args:
        matrix: A, (g, l).
        basis: Q, (g, b) with orthonormal columns.

    Returns:
        Squares of the b Ritz values (b,), falling, and their vectors (g, b), orthonormal. NaN in A or Q makes the
        values NaN.
    """
    # The thin factor always stands left: the CPU takes up to twice as long for A^T Q as for Q^T A.
    rows = torch.linalg.qr((basis.T @ matrix).T).Q.T
    # Householder's QR, twice: its columns are orthonormal even where the matrix has a lower rank.
    columns, triangle = torch.linalg.qr((rows @ matrix.T).T)
    squares, vectors = _eigh((triangle @ triangle.T).double())
    return squares, (columns @ vectors.float()).contiguous()


def iterate(matrix: Tensor, basis: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Improve the principal subspace of a similar matrix into this one's.

    Subspace iteration, warm-started (Halko, Martinsson and Tropp 2011, algorithm 4.4), but with its Rayleigh-Ritz step
    over the old basis Q and all its images (A A^T)^i Q together, not over the last alone: the block Krylov method
    (Musco and Musco 2015). It needs the same products of A and A^T with a basis, 1 + 2 `iterations`, and errs many
    times less.

    Args:
        matrix: A, (g, l).
        basis: Q, (g, b) with orthonormal columns, (1 + iterations) b <= g.
        iterations: images.

    Returns:
        Squares of the b largest Ritz values (b,), falling, and their vectors (g, b), orthonormal. NaN in A or Q makes
        the values NaN.
    """
    width = basis.shape[1]
    # The thin factor always stands left: the CPU takes up to twice as long for A^T Q as for Q^T A.
    blocks, coordinates = [basis], [basis.T @ matrix]
    for _ in range(iterations):
        image = (coordinates[-1] @ matrix.T).T
        # Householder's QR: the new columns are orthonormal even where the image has nothing new.
        block = torch.linalg.qr(torch.cat([*blocks, image], dim=1)).Q[:, -width:]
        blocks.append(block)
        coordinates.append(block.T @ matrix)
    projected = torch.cat(coordinates)
    squares, vectors = _eigh((projected @ projected.T).double())
    return squares[:width], (torch.cat(blocks, dim=1) @ vectors[:, :width].float()).contiguous()


def angles(old: Tensor, new: Tensor) -> Tensor:
    """Return the principal angles between two subspaces, in radians (k,), falling, float64.

    By their sines, the singular values of (I - U0 U0^T) U1 (Knyazev and Argentati 2002): cosines lose angles below
    3.5e-4 in float32.

    Args:
        old, new: U0 and U1, (g, k) with orthonormal columns.
    """
    rest = (new - old @ (old.T @ new)).double()
    squares, _ = _eigh(rest.T @ rest)
    return torch.asin(squares.sqrt().clamp(max=1))


def alignment(principal: Tensor, gradient: Tensor) -> Tensor:
    """Return ||U^T G||_F^2 / ||G||_F^2, float64: the share of a gradient (g, l) in the span of U (g, k)."""
    return (squared_norm(principal.T @ gradient) / squared_norm(gradient)).clamp(max=1)


def _eigh(symmetric: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues, falling and not negative, and eigenvectors. An entry that is not finite makes them NaN."""
    finite = torch.isfinite(symmetric).all()  # LAPACK would raise; asking here would wait for the device
    values, vectors = torch.linalg.eigh(torch.where(finite, symmetric, 0.0))
    return torch.where(finite, values, math.nan).flip(0).clamp(min=0), vectors.flip(1)
