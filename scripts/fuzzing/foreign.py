"""Cases of files of weights of other software."""

import random
from pathlib import Path

from scripts.fuzzing import safetensors_files, torch_files
from scripts.fuzzing.commands import COMMANDS
from scripts.fuzzing.trial import Measures, Trial, difference, on_command
from scripts.fuzzing.world import World


def torch(world: World, folder: Path, choose: random.Random) -> Trial:
    """PyTorch's zip archives and its format before them."""
    legacy = choose.random() < 0.35
    name = "weights.pth" if legacy else "weights.ckpt"
    world.copy(folder, *COMMANDS[f"convert {name}"].inputs)
    state = safetensors_files.read((world.folder / "weights.safetensors").read_bytes())
    content, words = torch_files.mutate(state, choose, legacy)
    (folder / name).write_bytes(content)

    def judge(folder: Path, found: Measures, sound: Measures) -> str:
        # Numbers of a tensor that stay within its storage, and the raw numbers of the old format, tell nobody that
        # they were others; a zip archive's checksums do.
        if words.startswith("valid") or (legacy and words.startswith("the file is")) or "model_config" in words:
            return ""
        return f"other weights: {difference(found, sound)}"

    return on_command(world, f"convert {name}", words, judge)


def safetensors(world: World, folder: Path, choose: random.Random) -> Trial:
    """Safetensors: header, offsets, shapes, types and data."""
    name = "weights.safetensors"
    world.copy(folder, *COMMANDS[f"convert {name}"].inputs)
    content, words = safetensors_files.mutate((folder / name).read_bytes(), choose)
    (folder / name).write_bytes(content)

    def judge(folder: Path, found: Measures, sound: Measures) -> str:
        """The `safetensors` package is the oracle: what it reads is right, with whatever numbers."""
        try:
            safetensors_files.read(content)
        except Exception as error:
            return f"the safetensors package refuses it ({str(error)[:100]}); {difference(found, sound)}"
        return ""

    return on_command(world, f"convert {name}", words, judge)


CATEGORIES = {"torch": torch, "safetensors": safetensors}
