"""Table 1 of the UNeXt2 paper (Liu et al. 2025), and its other networks: parameters and multiply-adds on a field of
2048 x 2048, beside the paper's numbers and those of VisCy's own modules.

    python -m scripts.paper_table1

Multiply-adds are those of convolutions and matrix products (`vsjax.runtime.cost`); nothing is computed. VisCy's are
the same products of its PyTorch modules, counted layer by layer by `scripts/peer_multiply_adds.py`. The paper's are
higher by .2 to .7 %, because it counted with ptflops, which adds a sum for each bias, two operations for each value of
a norm, one for each activation and each pooled value: ptflops 0.7.0 on VisCy's modules gives the paper's three numbers
to the last digit (723.619, 1006.117 and 1005.509 G; UNeXt2 without `head_pool`)."""

from functools import partial

import jax
import jax.numpy as jnp

from vsjax.models.registry import build_model
from vsjax.runtime.cost import multiply_adds

PLANE = 2048
UNEXT2 = {"out_channels": 2}
FCMAE = {"out_channels": 2, "decoder_conv_blocks": 2}
UNET25D = {"in_stack_depth": 5, "residual": True}
# name; model, settings; the paper's M parameters and G multiply-adds; VisCy's parameters and G multiply-adds
ROWS = (
    ("UNeXt2 Z(5,5)", "unext2", {**UNEXT2, "in_stack_depth": 5}, (32.04, 723.62), (32_042_729, 721.839)),
    (
        "VSNeuromast Z(21,21)",
        "unext2",
        {**UNEXT2, "in_stack_depth": 21, "stem_kernel_size": (7, 4, 4)},
        (None, None),
        (40_043_689, 2936.968),
    ),
    ("2.5D U-Net, 2 targets", "unet25d", {**UNET25D, "out_channels": 2}, (2.01, 1006.12), (2_014_484, 999.184)),
    ("2.5D U-Net, 1 target", "unet25d", {**UNET25D, "out_channels": 1}, (2.01, 1005.51), (2_014_322, 998.580)),
    (
        "VSCyto2D",
        "fcmae",
        {**FCMAE, "in_stack_depth": 1, "stem_kernel_size": (1, 2, 2)},
        (None, None),
        (31_160_888, 1833.829),
    ),
    ("FCMAE, 5 slices", "fcmae", {**FCMAE, "in_stack_depth": 5}, (None, None), (31_619_712, 577.118)),
    ("FCMAE, 15 slices", "fcmae", {**FCMAE, "in_stack_depth": 15}, (None, None), (34_979_328, 1456.412)),
    (
        "FCMAE pre-training",
        "fcmae",
        {**FCMAE, "in_stack_depth": 5, "out_channels": 1, "decoder_conv_blocks": 1},
        (None, None),
        (29_722_112, 437.484),
    ),
    ("FNet3D, 16 slices", "fnet3d", {"in_stack_depth": 16, "out_channels": 1}, (None, None), (None, None)),
)


def main() -> None:
    """Print one line per network."""
    print(f"{'':22} {'parameters':^32} {'G multiply-adds':^31}")
    print(f"{'network':22} {'vsjax':>12} {'VisCy':>12} {'paper':>6} {'vsjax':>11} {'VisCy':>11} {'paper':>8}")
    for label, name, settings, (paper_parameters, paper_work), (viscy_parameters, viscy_work) in ROWS:
        model = build_model(name, in_channels=1, **settings).with_plain_convolutions()
        image = jax.ShapeDtypeStruct((1, settings["in_stack_depth"], PLANE, PLANE, 1), jnp.float32)
        variables = jax.eval_shape(partial(model.init, jax.random.key(0), train=False), image)
        parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        work = multiply_adds(partial(model.apply, train=False), variables, image) / 1e9
        print(
            f"{label:22} {parameters:12,} {_cell(viscy_parameters, '12,')} {_cell(paper_parameters, '6.2f')} "
            f"{work:11,.3f} {_cell(viscy_work, '11,.3f')} {_cell(paper_work, '8.2f')}".rstrip()
        )


def _cell(value: float | None, form: str) -> str:
    """The number in this form, blanks as wide where it is not known."""
    return format(value, form) if value is not None else " " * int(form.split(".")[0].strip("f,"))


if __name__ == "__main__":
    main()
