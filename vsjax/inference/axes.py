"""Which axis of an array is which: users' arrays to [T, Z, Y, X, C] and back."""

import numpy as np

from vsjax.errors import UserError, shorten

_ORDER = "TZYXC"


def resolve_axes(shape: tuple[int, ...], axes: str | None, channels: int) -> str:
    """The axes as the caller names them or, where the shape alone tells, as it does.

    Args:
        shape: the array's.
        axes: such as "ZYX" or "TZYXC", in any order and case; None to go by the shape.
        channels: the number of channels, which tells [Z, Y, X, C] from [C, Z, Y, X].

    Raises:
        UserError: the axes do not describe the shape, or the shape leaves it open.
    """
    if axes is not None:
        if not isinstance(axes, str):
            raise UserError(f"axes: is {shorten(repr(axes))}; give text such as 'ZYX' or 'TCZYX'")
        axes = axes.upper()
        if len(axes) != len(shape) or len(set(axes)) != len(axes) or not {"Y", "X"} <= set(axes) <= set(_ORDER):
            raise UserError(
                f"axes={shorten(axes)!r} does not describe a volume of shape {shape}; name each axis once, such as ZYX "
                "or TCZYX"
            )
        return axes
    if len(shape) in (2, 3, 5):
        return {2: "YX", 3: "ZYX", 5: "TCZYX"}[len(shape)]
    possible = [name for name in ("ZYXC", "CZYX") if len(shape) == 4 and shape[name.index("C")] == channels]
    if len(possible) == 1:
        return possible[0]
    raise UserError(
        f"volume: the shape {shape} does not tell which axis holds the model's source channels (their number is "
        f"{channels}); give [Z, Y, X], or say axes='CZYX', 'ZYXC' or whatever it is"
    )


def to_tzyxc(volume: np.ndarray, axes: str) -> np.ndarray:
    """Transpose to [T, Z, Y, X, C]; an axis that is missing gets length one."""
    volume = np.transpose(volume, [axes.index(axis) for axis in _ORDER if axis in axes])
    return np.expand_dims(volume, [i for i, axis in enumerate(_ORDER) if axis not in axes])


def from_tzyxc(volume: np.ndarray, axes: str) -> np.ndarray:
    """Undo `to_tzyxc`; the channels come last where `axes` has none."""
    axes = axes if "C" in axes else axes + "C"
    volume = np.squeeze(volume, tuple(i for i, axis in enumerate(_ORDER) if axis not in axes))
    present = [axis for axis in _ORDER if axis in axes]
    return np.transpose(volume, [present.index(axis) for axis in axes])
