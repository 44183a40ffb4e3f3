"""What the second stage costs, counted on traced programs, against what must run by arithmetic."""

import gzip
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from colorize_jax.analysis.flops import count_flops
from colorize_jax.analysis.step_flops import countable
from colorize_jax.benchmark.step import count_step
from colorize_jax.config.load import load_config
from colorize_jax.setup.initialize import abstract_state
from colorize_jax.setup.networks import build_train_system
from colorize_jax.training import trees

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "tests" / "io" / "manifests" / "colorizer_xl_plugin.json.gz"
RANK = 4


def product(rows, channels_in, channels_out):
    """FLOPs of a dense layer."""
    return 2 * rows * channels_in * channels_out


def res(pixels, channels_in, channels, width):
    """FLOPs of a res block: its convolutions, and the embedding's dense layer."""
    own = product(pixels, 9 * channels_in, channels) + product(pixels, 9 * channels, channels)
    own += product(pixels, channels_in, channels) if channels_in != channels else 0
    return own, product(1, width, channels)


class Walk:
    """Adds up what a UNet's stages cost, forward and backward, one picture."""

    def __init__(self, unet, height, width):
        self.unet, self.cells = unet, (height // 8, width // 8)
        self.forward = self.backward = 0

    def stages(self):
        """Yield (stage, pixels of its output, channels of its input)."""
        height, width = self.cells
        channels, skips = self.unet.in_channels, []
        for stage in self.unet.plan():
            if stage.takes_skip:
                channels += skips.pop()
            height, width = {
                "down": (height // 2, width // 2),
                "up": (height * 2, width * 2),
            }.get(stage.kind, (height, width))
            yield stage, height * width, channels
            channels = stage.channels
            if stage.stores_skip:
                skips.append(channels)


def frozen_unet(unet, height, width, context_tokens):
    """A frozen UNet with low-rank additions and a bank: gradients of activations only, and only
    behind the first addition."""
    walk, total = Walk(unet, height, width), 0
    embedding = 4 * unet.model_channels
    total += product(1, unet.model_channels, embedding) + product(1, embedding, embedding)
    total += product(1, unet.vector_channels, embedding) + product(1, embedding, embedding)
    begun = False  # whether anything before depends on what is trained
    for stage, pixels, channels_in in walk.stages():
        c = stage.channels
        both = 1 + begun
        if stage.kind == "res":
            convolutions, shift = res(pixels, channels_in, c, embedding)
            total += both * convolutions + shift
        elif stage.kind == "transformer":
            total += both * product(pixels, c, c)  # in
            for _ in range(stage.depth):
                total += block(unet, stage, pixels, context_tokens, begun)
                begun = True
            total += 2 * product(pixels, c, c)  # out
        else:
            total += both * product(pixels, 9 * channels_in, c)
    return total + 2 * product(pixels, 9 * unet.model_channels, unet.out_channels)


def block(unet, stage, n, s, begun):
    """One transformer block of the frozen UNet."""
    c, k, r = stage.channels, unet.context_channels, RANK
    bank = stage.name.startswith("output")
    both = 1 + begun
    attention = 4 * n * n * c
    self_attention = both * 4 * product(n, c, c) + (1 + 2 * begun) * attention
    if bank:  # its keys and values, with gradients of its tokens; attention to them
        self_attention += 2 * 2 * product(n, c, c) + 3 * attention
    queries = both * product(n, c, c) + (3 + begun) * product(n, c, r) + 3 * product(n, r, c)
    keys = product(s, k, c) + 2 * product(s, k, r) + 3 * product(s, r, c)
    cross_attention = queries + 2 * keys + 3 * 4 * n * s * c + 2 * product(n, c, c)
    feed_forward = 2 * (product(n, c, 8 * c) + product(n, 4 * c, c))
    return self_attention + cross_attention + feed_forward


def trained_encoder(encoder, height, width):
    """A trained background encoder up to the norm of its last block: forward and both gradients."""
    walk, total = Walk(encoder, height, width), 0
    embedding = 4 * encoder.model_channels
    for inputs in (encoder.model_channels, encoder.vector_channels):
        total += 2 * product(1, inputs, embedding) + 3 * product(1, embedding, embedding)
    last = list(encoder.stacks())[-1]
    for stage, n, channels_in in walk.stages():
        c = stage.channels
        if stage.kind == "res":
            total += 3 * sum(res(n, channels_in, c, embedding))
        elif stage.kind == "transformer":
            each = 3 * (4 * product(n, c, c) + 4 * n * n * c)
            each += 3 * (product(n, c, 8 * c) + product(n, 4 * c, c))
            ends = stage.name == last
            total += 3 * product(n, c, c) + (stage.depth - ends) * each
            if ends:
                return total
            total += 3 * product(n, c, c)
        else:
            first = stage.kind == "conv"  # no gradient of the input
            total += (3 - first) * product(n, 9 * channels_in, c)
    raise AssertionError


@pytest.fixture(scope="module")
def config():
    """The published second stage at 1024 px, two pictures."""
    return load_config(ROOT / "configs" / "refine.py", ["--config.data.batch_size=2"])


@pytest.fixture(scope="module")
def counted(config):
    return count_step(config)["programs"]["single"]


def test_the_step_at_full_size_costs_what_must_run(config, counted):
    system = countable(build_train_system(config))
    size = config.data.height, config.data.width
    context = 2 * config.model.context_tokens
    unet = frozen_unet(system.colorizer.unet, *size, context)
    encoder = trained_encoder(system.background_encoder, *size)
    print(f"UNet {unet / 1e12:.3f}, background encoder {encoder / 1e12:.3f} TFLOP a picture")
    print({name: f"{count / 1e12:.3f}" for name, count in counted.items()})
    assert counted["unet"] == pytest.approx(unet + encoder, rel=0.03)
    # The frozen encoders see picture and background; their published counts, the tagger's aside.
    colorizer, encoders = system.colorizer, system.encoders

    def tagger(params, images):
        return encoders.tagger.apply({"params": params}, images, method="tokens")

    def conditions(params, sketch, clip_tokens, tagger_tokens):
        hints = colorizer.hints(params, sketch)
        return hints, [colorizer.context(params, clip_tokens, tagger_tokens) for _ in range(2)]

    state = abstract_state(system)
    floats = jax.ShapeDtypeStruct
    own = count_flops(tagger, state.frozen["tagger"], floats((1, 448, 448, 3), jnp.float32))
    assert counted["encoders"] == pytest.approx(
        2 * (4_878_948_630_528 + 967_496_032_256 + own), rel=0.03
    )
    tokens = floats((1, 257, 1280), jnp.float32), floats((1, 196, 1024), jnp.float32)
    networks = trees.merge(state.params, state.frozen)
    own = count_flops(conditions, networks, floats((1, *size, 3), jnp.float32), *tokens)
    assert counted["conditions"] == pytest.approx(own, rel=1e-6)


def test_memory_of_the_optimizer_is_that_of_the_plugin_alone(config):
    system = build_train_system(config)
    state = abstract_state(system)
    tensors = json.loads(gzip.decompress(MANIFEST.read_bytes()))["tensors"]
    sizes = {name: int(jnp.prod(jnp.array(shape))) for name, shape in tensors.items()}
    encoder = sum(size for name, size in sizes.items() if name.startswith("bg_encoder."))
    additions = sum(size for name, size in sizes.items() if ".lora_" in name)
    assert encoder == 2_012_561_920
    held = {
        path: leaf for path, leaf in trees.flatten(state.frozen).items() if "background" in path
    }
    assert len(held) == 27
    trained = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert trained == encoder + additions - sum(leaf.size for leaf in held.values())
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert sum(leaf.size for leaf in moments) == 2 * trained
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(state.frozen["unet"])} == {jnp.dtype("bfloat16")}
    assert state.ema is None
