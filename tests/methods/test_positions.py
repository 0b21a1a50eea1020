"""The longest text is the longest that the model takes: one token more has no position."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModel, PreTrainedModel, RobertaConfig, RobertaModel

from propulsion_tools.errors import OptionError
from propulsion_tools.methods.positions import check_virtual_tokens, position_offset
from propulsion_tools.records import RunSpec

TABLE, PADDING = 16, 3
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 30,
    "max_position_embeddings": TABLE,
    "pad_token_id": PADDING,
}
BEHIND_THE_PADDING = {
    "roberta": {},
    "xlm-roberta": {},
    "xlm-roberta-xl": {},
    "roberta-prelayernorm": {},
    "camembert": {},
    "data2vec-text": {},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "esm": {"position_embedding_type": "absolute"},
    "ibert": {},
    "longformer": {"attention_window": [4]},
    "luke": {"entity_vocab_size": 10, "entity_emb_size": 8},
    "markuplm": {},
    "mpnet": {},
}
FROM_THE_START = {
    "bert": {},
    "electra": {},
    "distilbert": {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 32},
    "gpt2": {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": TABLE},
    "opt": {"ffn_dim": 32, "word_embed_proj_dim": 32},
    "bart": {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32},
}


def model_of(model_type: str) -> PreTrainedModel:
    config = AutoConfig.for_model(model_type, **SIZES, **(BEHIND_THE_PADDING | FROM_THE_START)[model_type])
    return AutoModel.from_config(config).eval()


def takes(model: PreTrainedModel, length: int) -> bool:
    try:
        with torch.no_grad():
            model(input_ids=torch.arange(length)[None] % 20 + 4)
    except (IndexError, RuntimeError):  # a table of positions is read by index, or cut to the length
        return False
    return True


@pytest.mark.parametrize("model_type", [*BEHIND_THE_PADDING, *FROM_THE_START])
def test_the_offset_is_what_the_position_table_has_no_room_for(model_type: str) -> None:
    model = model_of(model_type)
    offset = position_offset(model)
    assert (offset > 0) == (model_type in BEHIND_THE_PADDING)
    assert takes(model, TABLE - offset)
    assert not takes(model, TABLE - offset + 1)


def test_mpnet_counts_from_2_whatever_its_padding_token_is() -> None:
    assert (position_offset(model_of("mpnet")), position_offset(model_of("roberta"))) == (2, PADDING + 1)


def test_virtual_tokens_and_text_share_the_positions() -> None:
    with torch.device("meta"):
        model = RobertaModel(RobertaConfig(**SIZES))
    check_virtual_tokens(4, model, RunSpec(max_length=8))
    with pytest.raises(OptionError, match=r"exceed the 12 positions of this model: lower max_length to 7"):
        check_virtual_tokens(5, model, RunSpec(max_length=8))
