"""The channels and the units of a network with weights from elsewhere, which its file does not tell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vsjax.errors import UserError, shorten
from vsjax.intensity.normalization import Normalization, location_scale
from vsjax.interop.conversion import ConvertedNetwork
from vsjax.interop.published import find_recipe
from vsjax.plates.reader import open_plate
from vsjax.schema import LONGEST_NAME, parse


@dataclass(frozen=True)
class Data:
    """The data that a model is for, as a checkpoint describes it.

    Attributes:
        title: of the published model whose shape the network has.
        source, target: names of the channels.
        source_normalization, target_normalization: how each is normalised.
        statistics: of the plates that it was trained on, by channel; empty where they are not known.
        pixel_size_um: (z, y, x) of these plates; empty where it is not known.
        nameless: roles whose channels nothing names.
    """

    title: str
    source: tuple[str, ...]
    target: tuple[str, ...]
    source_normalization: Normalization
    target_normalization: Normalization
    statistics: dict[str, dict[str, float]]
    pixel_size_um: tuple[float, ...]
    nameless: tuple[str, ...]

    def described(self) -> dict[str, Any]:
        """Fields of a checkpoint's description, as `vsjax.train` writes them."""
        roles = {"source": (self.source, self.source_normalization), "target": (self.target, self.target_normalization)}
        return {
            "channels": {
                role: {"channels": channels, "normalization": normalization}
                for role, (channels, normalization) in roles.items()
            },
            "pixel_size_um": self.pixel_size_um,
            "statistics": self.statistics,
        }


def describe_data(
    network: ConvertedNetwork,
    path: str,
    channels: Mapping[str, Sequence[str] | None],
    normalizations: Mapping[str, str | None],
    statistics: str | None = None,
    pixel_size_um: Sequence[float] | None = None,
) -> Data:
    """Channels, normalisation, statistics and pixel size: the user's, or else those of the published model.

    Args:
        network: whose data these are.
        path: of its file, for messages.
        channels: names by role ("source", "target"); None takes the published model's.
        normalizations: by role, such as "fov/mean_std" or "none"; None takes the published model's.
        statistics: a plate that holds them.
        pixel_size_um: (z, y, x); by default the plate's.

    Raises:
        UserError: the names are not as many as the network's channels, or nothing tells which of the channels in the
            plate of `statistics` are the targets, or it lacks one.
    """
    recipe = find_recipe(network.name, network.settings)
    source = tuple(channels["source"] or recipe.source_channels)
    target = tuple(channels["target"] or recipe.target_channels)
    _check_names(path, "--source", source, "sees", network.settings["in_channels"])
    _check_names(path, "--target", target, "predicts", network.settings["out_channels"])
    nameless = tuple(role for role in recipe.numbered if not channels[role])
    if statistics and "target" in nameless:
        raise UserError(f"{statistics}: nothing tells which of its channels are the targets; name them by --target")
    normalization = _parse_normalization("--normalization-target", normalizations["target"], recipe.target)
    known, pixels = _read_statistics(statistics, source, target, normalization) if statistics else ({}, ())
    return Data(
        recipe.title,
        source,
        target,
        _parse_normalization("--normalization-source", normalizations["source"], recipe.source),
        normalization,
        known,
        tuple(float(size) for size in pixel_size_um or pixels),
        nameless,
    )


def _read_statistics(
    url: str, source: Sequence[str], target: Sequence[str], normalization: Normalization
) -> tuple[dict[str, dict[str, float]], tuple[float, ...]]:
    """What a plate knows of the channels, and its pixel size; UserError where predictions could not have its units."""
    position = open_plate(url).first_position()
    wanted = [*target, *(name for name in source if name in position.channel_names)]
    statistics = {name: position.statistics(name, "dataset") for name in wanted}
    for name in target if normalization.scope != "none" else ():
        location_scale(statistics[name], normalization.statistic, f"{name} of {url}")
    return statistics, position.pixel_size_um


def _check_names(path: str, flag: str, names: Sequence[str], verb: str, count: int) -> None:
    if len(names) != count or len(set(names)) != count:
        given = f"{flag} names {shorten(' '.join(names))}"
        raise UserError(f"{path}: the network {verb} {count} channels, but {given}; name {count} different ones")
    for name in names:
        if not name.isprintable() or not 0 < len(name) <= LONGEST_NAME:
            raise UserError(f"{flag} {shorten(name)}: is no name of a channel; give 1 to {LONGEST_NAME} characters")


def _parse_normalization(flag: str, text: str | None, default: Normalization) -> Normalization:
    """`fov/mean_std` as an object, or `none`; the default where the user gives nothing."""
    if text is None:
        return default
    scope, _, statistic = text.partition("/")
    given = {"scope": scope} if text == "none" else {"scope": scope, "statistic": statistic}
    return parse(Normalization, given, f"{flag} {shorten(text)}: ", "write it as SCOPE/STATISTIC, such as fov/mean_std")
