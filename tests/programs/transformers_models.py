"""Models of `transformers` with random weights: encoder, decoder, vision, cache."""

import jax
import jax.numpy as jnp
import numpy as np
import report
import transformers as tr

tokens = np.array([[3, 5, 7, 9, 2], [4, 1, 8, 6, 6]])
small = {
    "vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 32,
}  # fmt: skip
found = {}

bert = tr.FlaxBertForSequenceClassification(tr.BertConfig(**small), seed=1)
found["bert_params"] = bert.params
found["bert"] = bert(tokens, params=bert.params, dropout_rng=jax.random.PRNGKey(2),
                     train=True).logits  # fmt: skip
found["bert_grads"] = jax.grad(
    lambda params: jnp.square(bert(tokens, params=params).logits).sum()
)(bert.params)

gpt2 = tr.FlaxGPT2LMHeadModel(
    tr.GPT2Config(vocab_size=20, n_positions=16, n_embd=16, n_layer=2, n_head=2,
                  eos_token_id=0, bos_token_id=0, pad_token_id=0),
    seed=3,
)  # fmt: skip
found["gpt2_params"] = gpt2.params
found["gpt2"] = gpt2(tokens).logits
found["gpt2_generated"] = gpt2.generate(tokens, max_length=9, do_sample=False).sequences

llama = tr.FlaxLlamaForCausalLM(
    tr.LlamaConfig(**small, num_key_value_heads=1, max_position_embeddings=16), seed=4
)
found["llama"] = llama(tokens).logits

vit = tr.FlaxViTForImageClassification(
    tr.ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                 intermediate_size=32, image_size=16, patch_size=4),
    seed=6,
)  # fmt: skip
image = np.linspace(-1, 1, 2 * 3 * 16 * 16, dtype=np.float32).reshape(2, 3, 16, 16)
found["vit"] = vit(image).logits

resnet = tr.FlaxResNetForImageClassification(
    tr.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1],
                    layer_type="basic"),
    input_shape=(1, 16, 16, 3),
    seed=7,
)  # fmt: skip
found["resnet"] = resnet(image, train=True)

report.save(**found)
