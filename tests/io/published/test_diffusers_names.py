"""Names in the diffusers layout, on examples of every rule."""

import pytest

from colorize_jax.io.published import diffusers_names


@pytest.mark.parametrize(
    ("original", "diffusers"),
    [
        ("time_embed.2.bias", "time_embedding.linear_2.bias"),
        ("label_emb.0.0.weight", "add_embedding.linear_1.weight"),
        ("input_blocks.0.0.weight", "conv_in.weight"),
        ("input_blocks.2.0.emb_layers.1.bias", "down_blocks.0.resnets.1.time_emb_proj.bias"),
        ("input_blocks.3.0.op.weight", "down_blocks.0.downsamplers.0.conv.weight"),
        ("input_blocks.4.0.skip_connection.bias", "down_blocks.1.resnets.0.conv_shortcut.bias"),
        ("input_blocks.8.1.transformer_blocks.9.ff.net.0.proj.weight",
         "down_blocks.2.attentions.1.transformer_blocks.9.ff.net.0.proj.weight"),
        ("middle_block.0.in_layers.2.weight", "mid_block.resnets.0.conv1.weight"),
        ("middle_block.1.proj_in.weight", "mid_block.attentions.0.proj_in.weight"),
        ("middle_block.2.out_layers.3.weight", "mid_block.resnets.1.conv2.weight"),
        ("output_blocks.2.2.conv.weight", "up_blocks.0.upsamplers.0.conv.weight"),
        ("output_blocks.5.1.norm.weight", "up_blocks.1.attentions.2.norm.weight"),
        ("output_blocks.8.0.in_layers.0.bias", "up_blocks.2.resnets.2.norm1.bias"),
        ("out.0.weight", "conv_norm_out.weight"),
        ("out.2.bias", "conv_out.bias"),
    ],
)  # fmt: skip
def test_unet(original, diffusers):
    assert diffusers_names.unet_names([original], 2) == {original: diffusers}


def test_our_extras_have_no_diffusers_name():
    extras = [
        "conv_fg.weight",
        "map_modules.0.0.to_q.weight",
        "warp_modules.8.1.bias",
        "input_blocks.4.1.transformer_blocks.0.attn2.to_q.lora_down_background.weight",
    ]
    assert diffusers_names.unet_names(extras, 2) == {}


@pytest.mark.parametrize(
    ("original", "diffusers"),
    [
        ("encoder.conv_in.weight", "encoder.conv_in.weight"),
        ("encoder.down.1.block.0.nin_shortcut.bias",
         "encoder.down_blocks.1.resnets.0.conv_shortcut.bias"),
        ("encoder.down.0.downsample.conv.weight",
         "encoder.down_blocks.0.downsamplers.0.conv.weight"),
        ("encoder.mid.block_2.norm1.weight", "encoder.mid_block.resnets.1.norm1.weight"),
        ("decoder.mid.attn_1.proj_out.bias", "decoder.mid_block.attentions.0.to_out.0.bias"),
        ("decoder.mid.attn_1.norm.weight", "decoder.mid_block.attentions.0.group_norm.weight"),
        ("decoder.up.3.block.2.conv1.weight", "decoder.up_blocks.0.resnets.2.conv1.weight"),
        ("decoder.up.1.upsample.conv.bias", "decoder.up_blocks.2.upsamplers.0.conv.bias"),
        ("decoder.norm_out.weight", "decoder.conv_norm_out.weight"),
        ("quant_conv.weight", "quant_conv.weight"),
    ],
)  # fmt: skip
def test_vae(original, diffusers):
    assert diffusers_names.vae_names([original], 4) == {original: diffusers}


def test_older_attention_names():
    name = "decoder.mid_block.attentions.0.proj_attn.weight"
    modern = diffusers_names.modern_vae_name(name)
    assert modern == "decoder.mid_block.attentions.0.to_out.0.weight"
    assert diffusers_names.is_vae_attention_kernel(modern)
    assert diffusers_names.modern_vae_name(modern) == modern
