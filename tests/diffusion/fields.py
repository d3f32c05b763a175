"""Fields of view whose truth is known: touching ellipses on a background that is less even than they are bright."""

import numpy as np
from scipy import ndimage


def uneven_field(seed, side=128, cells=6, radius=(13, 19), slope=2.0, noise=0.15):
    """An image `[side, side]` of mean 0 and deviation 1 and the mask of its cells; half of these touch another."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    image, mask, centres = np.zeros((side, side)), np.zeros((side, side), bool), []
    for number in range(cells):
        centre, angle = random.uniform(0, side, 2), random.uniform(0, 2 * np.pi)
        if number % 2:
            centre = centres[-1] + sum(radius) * np.array([np.sin(angle), np.cos(angle)])
        centres.append(centre)
        (a, b), turn = random.uniform(*radius, 2), random.uniform(0, np.pi)
        down, right = y - centre[0], x - centre[1]
        along, across = down * np.cos(turn) + right * np.sin(turn), right * np.cos(turn) - down * np.sin(turn)
        inside = (along / a) ** 2 + (across / b) ** 2 < 1
        image = np.where(inside & ~mask, random.uniform(0.8, 1.2), image)
        mask |= inside
    image = ndimage.gaussian_filter(image * (1 + ndimage.gaussian_filter(random.normal(size=image.shape), 3)), 1.5)
    angle, phase = random.uniform(0, 2 * np.pi), random.uniform(0, 2 * np.pi, 2)
    image += slope * (np.sin(angle) * y + np.cos(angle) * x) / side
    image += 0.5 * np.sin(y / 40 + phase[0]) * np.sin(x / 50 + phase[1]) + noise * random.normal(size=image.shape)
    return ((image - image.mean()) / image.std()).astype(np.float32), mask


def overlap(one, other):
    """Intersection over union of two masks."""
    return (one & other).sum() / max(1, (one | other).sum())
