"""Collective operations read from the text of compiled programs: lines made by hand, and programs that have known
ones, on eight fake devices in a subprocess."""

import os
import subprocess
import sys

from vsjax.runtime.collectives import Array, read_collectives, total_bytes

LINES = """
  %all-gather.7 = bf16[8,64,96]{2,1,0} all-gather(bf16[1,64,96]{2,1,0} %p), channel_id=1, metadata={op_name="jit(f)/a"}
  ROOT %all-reduce = (f32[40]{0}, f32[7,7,1,8]{3,2,1,0:T(8,128)}) all-reduce(%a, %b), channel_id=2, to_apply=%add
  %cps = (f32[3,4]{1,0}, f32[3,4]{1,0}, u32[], u32[]) collective-permute-start(%c), metadata={op_name="jit(f)/b"}
  %cpd = f32[3,4]{1,0} collective-permute-done((f32[3,4]{1,0}, f32[3,4]{1,0}, u32[], u32[]) %cps)
  %reduce-scatter.1 = s8[5]{0} reduce-scatter(s8[40]{0} %d), dimensions={0}
  %fusion = f32[9]{0} fusion(%all-gather.7, %all-reduce), calls=%all-gather_computation
  %get = f32[40]{0} get-tuple-element(%all-reduce), index=0
"""

PROGRAMS = """
import jax, jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec as P
from vsjax.runtime.collectives import Array, read_collectives
mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
permute = lambda x: jax.lax.ppermute(x, "d", [(i, (i + 1) % 8) for i in range(8)])
programs = {
    "all-gather": (lambda x: jax.lax.all_gather(x, "d", tiled=True), P(), (16, 3)),
    "all-reduce": (lambda x: jax.lax.psum(x, "d"), P(), (2, 3)),
    "collective-permute": (permute, P("d"), (2, 3)),
}
for name, (program, out, shape) in programs.items():
    sharded = jax.shard_map(program, mesh=mesh, in_specs=P("d"), out_specs=out, check_vma=False)
    text = jax.jit(sharded).lower(jax.ShapeDtypeStruct((16, 3), jnp.float32)).compile().as_text()
    found = read_collectives(text)
    assert [(one.operation, one.arrays) for one in found] == [(name, (Array("f32", shape),))], (name, found)
plain = jax.jit(jnp.sin).lower(jnp.ones(3)).compile().as_text()
assert read_collectives(plain) == []
"""


def test_lines_of_a_program():
    gather, reduce, permute, scatter = read_collectives(LINES)
    assert (gather.operation, gather.arrays, gather.source) == (
        "all-gather",
        (Array("bf16", (8, 64, 96)),),
        "jit(f)/a",
    )
    assert gather.bytes == 8 * 64 * 96 * 2
    assert reduce.arrays == (Array("f32", (40,)), Array("f32", (7, 7, 1, 8)))
    assert (permute.operation, permute.bytes, permute.source) == ("collective-permute", 48, "jit(f)/b")
    assert (scatter.operation, scatter.bytes) == ("reduce-scatter", 5)
    assert total_bytes([gather, reduce, permute, scatter], "all-reduce", "reduce-scatter") == 4 * (40 + 392) + 5


def test_programs_with_known_collectives():
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", PROGRAMS], env=env, check=True, timeout=120)
