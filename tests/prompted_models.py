"""Small networks of transformers that are asked in words, with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from framework_models import needs

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}


def spelling(folder: Path) -> tuple[Any, int]:
    """A tokenizer of CLIP's that spells, and how many tokens it knows."""
    (transformers,) = needs("transformers")
    folder.mkdir(parents=True, exist_ok=True)
    letters = [chr(number) for number in range(97, 123)]
    words = ["!", "<|startoftext|>", "<|endoftext|>", *letters, *(f"{x}</w>" for x in letters)]
    (folder / "vocab.json").write_text(json.dumps({word: n for n, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    made = transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    return made, len(words)


def _texts(count: int) -> dict[str, Any]:
    return {**SIZES, "vocab_size": count, "eos_token_id": 2, "bos_token_id": 1}


def grounding(folder: Path) -> tuple[Any, Any]:
    """Grounding DINO, and its processor."""
    _, transformers = needs("torch", "transformers")
    folder.mkdir(parents=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "ship", "oil", "tank", "red"]
    (folder / "vocab.txt").write_text("\n".join(words))
    vocabulary = {word: number for number, word in enumerate(words)}
    try:
        tokenizer = transformers.BertTokenizer(vocab=vocabulary)
    except TypeError:  # before transformers 5
        tokenizer = transformers.BertTokenizerFast(vocab_file=str(folder / "vocab.txt"))
    backbone = transformers.SwinConfig(
        embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], image_size=64, window_size=2,
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    text = transformers.BertConfig(**SIZES, vocab_size=len(words))
    config = transformers.GroundingDinoConfig(
        backbone_config=backbone, text_config=text, num_queries=6, d_model=32, encoder_layers=1,
        decoder_layers=2, encoder_ffn_dim=16, decoder_ffn_dim=16, encoder_attention_heads=2,
        decoder_attention_heads=2, max_text_len=32,
    )  # fmt: skip
    network = transformers.GroundingDinoForObjectDetection(config).eval()
    images = transformers.GroundingDinoImageProcessor(
        size={"shortest_edge": 64, "longest_edge": 96}
    )
    return network, transformers.GroundingDinoProcessor(images, tokenizer)


def concepts(folder: Path) -> tuple[Any, Any]:
    """SAM 3, and its processor."""
    _, transformers = needs("torch", "transformers")
    tokenizer, count = spelling(folder)
    part = {
        "hidden_size": 32,
        "num_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    backbone = {
        "model_type": "sam3_vit_model", "hidden_size": 32, "intermediate_size": 32,
        "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 112, "patch_size": 14,
        "window_size": 4, "global_attn_indexes": [0], "pretrain_image_size": 56,
    }  # fmt: skip
    vision = {
        "model_type": "sam3_vision_model",
        "backbone_config": backbone,
        "fpn_hidden_size": 32,
        "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
    }
    text = {
        "model_type": "clip_text_model",
        **_texts(count),
        "projection_dim": 32,
        "max_position_embeddings": 32,
    }
    config = transformers.Sam3Config(
        vision_config=vision,
        text_config=text,
        geometry_encoder_config=part,
        detr_encoder_config=part,
        detr_decoder_config={**part, "num_queries": 5},
        mask_decoder_config={"hidden_size": 32, "num_attention_heads": 2},
    )
    images = transformers.Sam3ImageProcessor(size={"height": 112, "width": 112})
    return transformers.Sam3Model(config).eval(), transformers.Sam3Processor(images, tokenizer)


def textmaps(folder: Path) -> tuple[Any, Any]:
    """CLIPSeg, and its processor."""
    _, transformers = needs("torch", "transformers")
    tokenizer, count = spelling(folder)
    config = transformers.CLIPSegConfig(
        text_config=_texts(count), vision_config={**SIZES, "image_size": 64, "patch_size": 16},
        projection_dim=16, extract_layers=[0, 1, 2], reduce_dim=16, decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
    )  # fmt: skip
    images = transformers.ViTImageProcessor(size={"height": 64, "width": 64})
    network = transformers.CLIPSegForImageSegmentation(config).eval()
    return network, transformers.CLIPSegProcessor(images, tokenizer)


def pairs(folder: Path) -> tuple[Any, Any]:
    """CLIP, and its processor."""
    _, transformers = needs("torch", "transformers")
    tokenizer, count = spelling(folder)
    config = transformers.CLIPConfig(
        text_config=_texts(count), vision_config={**SIZES, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )  # fmt: skip
    images = transformers.CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    return transformers.CLIPModel(config).eval(), transformers.CLIPProcessor(images, tokenizer)


def saved(kind: str, folder: Path) -> tuple[Any, Any, Path]:
    """A network and its processor, and the folder where both are saved."""
    torch, transformers = needs("torch", "transformers")
    made = {"grounding": grounding, "concepts": concepts, "textmaps": textmaps, "pairs": pairs}
    if kind == "concepts" and not hasattr(transformers, "Sam3Model"):
        needs("sam3")  # skipped: this release has none
    torch.manual_seed(4)
    network, processor = made[kind](folder / kind)
    network.save_pretrained(folder / kind)
    processor.save_pretrained(folder / kind)
    return network, processor, folder / kind
