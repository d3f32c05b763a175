"""Table 1 of the UNeXt2 paper (Liu et al. 2025): parameters and multiply-adds of each network on a 2048 x 2048 field.

    python scripts/paper_table1.py

Multiply-adds are those of convolutions and matrix products (`vsjax.training.cost`); nothing is computed."""

from functools import partial

import jax
import jax.numpy as jnp

from vsjax.models.registry import build_model
from vsjax.training.cost import multiply_adds

PLANE = 2048
# name, model, settings, slices in, (M parameters, G multiply-adds) where the paper gives them
ROWS = (
    ("UNeXt2 Z(5,5)", "unext2", {"head_pool": True, "depthwise": "conv"}, 5, (32.04, 723.62)),
    ("2.5D U-Net Z(5,1)", "unet25d", {"residual": True}, 5, (2.01, 1006.12)),
)


def main() -> None:
    """Print one line per network, beside the paper's numbers."""
    print(f"{'network':20} {'M parameters':>14} {'paper':>8} {'G multiply-adds':>17} {'paper':>9}")
    for label, name, settings, depth, (paper_parameters, paper_work) in ROWS:
        model = build_model(name, in_channels=1, out_channels=2, in_stack_depth=depth, **settings)
        image = jax.ShapeDtypeStruct((1, depth, PLANE, PLANE, 1), jnp.float32)
        variables = jax.eval_shape(partial(model.init, jax.random.key(0), train=False), image)
        parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        work = multiply_adds(partial(model.apply, train=False), variables, image)
        print(f"{label:20} {parameters / 1e6:14.2f} {paper_parameters:8.2f} {work / 1e9:17.2f} {paper_work:9.2f}")


if __name__ == "__main__":
    main()
