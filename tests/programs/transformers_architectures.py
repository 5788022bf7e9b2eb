"""Every model that `transformers` has for Flax, tiny, with random weights.

Those without a head run in numbers, those with one abstractly: by what is between them
and the numbers of the first, a dense layer or two, it would take five times as long.
"""

import old_jax  # noqa: F401, I001
import jax
import jax.numpy as jnp
import numpy as np
import report
import transformers as tr

# Every configuration takes those of these that it has.
TINY = dict(
    vocab_size=20, hidden_size=16, d_model=16, dim=16, n_embd=16, embed_dim=16,
    num_hidden_layers=1, num_layers=1, n_layer=1, n_layers=1, encoder_layers=1,
    decoder_layers=1, num_decoder_layers=1, num_attention_heads=2, num_heads=2,
    n_head=2, n_heads=2, encoder_attention_heads=2, decoder_attention_heads=2,
    attention_heads=2,
    attention_types=[[["global"], 1]], attention_layers=["global"], rotary_dim=4,
    num_key_value_heads=1, head_dim=8, intermediate_size=16, ffn_dim=16,
    encoder_ffn_dim=16, decoder_ffn_dim=16, hidden_dim=16, d_ff=16, d_kv=8,
    feed_forward_proj="relu", embedding_size=16, max_position_embeddings=32,
    n_positions=32, n_ctx=32, max_target_positions=16, max_source_positions=16,
    image_size=16, patch_size=8, bos_token_id=0, pad_token_id=1, eos_token_id=2,
    decoder_start_token_id=0, word_embed_proj_dim=16, attention_type="original_full",
    num_mel_bins=4, conv_dim=(8, 8), conv_kernel=(3, 3), conv_stride=(2, 2),
    num_feat_extract_layers=2, num_conv_pos_embeddings=4, hidden_sizes=[8, 16],
    depths=[1, 1], groups_width=4, num_conv_pos_embedding_groups=2, layer_norm_eps=1e-5,
    forced_eos_token_id=None, use_mask_token=False, apply_spec_augment=False,
    do_stable_layer_norm=True, feat_extract_norm="layer", seq_length=16,
)  # fmt: skip
image = np.linspace(-1, 1, 2 * 3 * 16 * 16, dtype=np.float32).reshape(2, 3, 16, 16)
tokens = np.array([[3, 5, 7, 9, 2], [4, 1, 8, 6, 2]])


def tiny(config_class):
    """A configuration of a class with one layer."""
    if config_class is tr.CLIPConfig:
        return tr.CLIPConfig(
            text_config=tiny(tr.CLIPTextConfig).to_dict(),
            vision_config=tiny(tr.CLIPVisionConfig).to_dict(),
            projection_dim=8,
        )
    if config_class is tr.VisionTextDualEncoderConfig:
        return config_class.from_vision_text_configs(
            tiny(tr.ViTConfig), tiny(tr.BertConfig), projection_dim=8
        )
    plain = config_class()
    known = {key: value for key, value in TINY.items() if hasattr(plain, key)}
    if config_class in (tr.GPTNeoConfig,):
        known.pop("attention_layers")
    if config_class is tr.DistilBertConfig:
        known["hidden_dim"] = 16
    return config_class(**known)


COMPOSED = {
    tr.FlaxEncoderDecoderModel: (tr.BertConfig, tr.GPT2Config),
    tr.FlaxVisionEncoderDecoderModel: (tr.ViTConfig, tr.GPT2Config),
    tr.FlaxSpeechEncoderDecoderModel: (tr.Wav2Vec2Config, tr.BartConfig),
}


def build(model_class):
    """A tiny model without parameters; some have to create them when they are made."""
    options = {}
    if model_class in COMPOSED:
        encoder, decoder = map(tiny, COMPOSED[model_class])
        make = model_class.config_class.from_encoder_decoder_configs
        config = make(encoder, decoder)
        if model_class is tr.FlaxSpeechEncoderDecoderModel:
            options["input_shape"] = ((2, 64), (2, 5))
    else:
        config = tiny(model_class.config_class)
        options["_do_init"] = model_class is tr.FlaxVisionTextDualEncoderModel
    made = []
    jax.eval_shape(lambda: made.append(model_class(config, **options)))
    return made[0]


def inputs_of(name, model):
    """The inputs of a model, small."""
    if name.endswith("ForMultipleChoice"):
        return {"input_ids": tokens[:, None]}
    if "Dual" in name or name.endswith("CLIPModel"):
        return {"input_ids": tokens, "pixel_values": image}
    decoder = {"decoder_input_ids": tokens} if model.config.is_encoder_decoder else {}
    if "Wav2Vec2" in name or "Speech" in name:
        sound = np.sin(np.arange(128, dtype=np.float32)).reshape(2, 64)
        if model.main_input_name == "input_values" and not decoder:
            return {"input_values": sound}
        return {"inputs": sound, **decoder}
    if "Whisper" in name:
        features = np.sin(np.arange(2 * 4 * 32, dtype=np.float32)).reshape(2, 4, 32)
        if name.endswith("AudioClassification"):
            return {"input_features": features}
        return {"input_features": features, "decoder_input_ids": tokens}
    if model.main_input_name == "pixel_values":
        return {"pixel_values": image, **decoder}
    if name.endswith("EncoderModel"):
        return {"input_ids": tokens}
    return {"input_ids": tokens, **decoder}


def is_model(value):
    """Whether a value is a model, not a base or an automatic choice of one."""
    return (
        isinstance(value, type)
        and issubclass(value, tr.FlaxPreTrainedModel)
        and not value.__name__.endswith("PreTrainedModel")
    )


def empty(leaf):
    """An array that takes no memory, of the shape and dtype of a leaf."""
    return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)


names = [name for name in dir(tr) if name.startswith("Flax")]
for name in (name for name in names if is_model(getattr(tr, name))):
    model_class = getattr(tr, name)
    model = build(model_class)
    inputs = inputs_of(name, model)

    def init(model=model):
        return model.init_weights(jax.random.PRNGKey(0), model.input_shape)

    def run(params, model=model, inputs=inputs):
        state = {"train": True} if "batch_stats" in params else {}
        outputs = model(**inputs, params=params, **state)
        return [
            leaf for leaf in jax.tree.leaves(outputs) if isinstance(leaf, jnp.ndarray)
        ]

    if name.endswith("Model"):
        report.found[name + "_params"] = params = jax.jit(init)()
        report.found[name] = jax.jit(run)(params)
    else:
        params = jax.eval_shape(init)
        outputs = jax.eval_shape(run, params)
        report.found[name] = jax.tree.map(empty, {"params": params, "out": outputs})
report.save()
