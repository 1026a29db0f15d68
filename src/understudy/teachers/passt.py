"""PaSST (passt_s_swa_p16_128_ap476): a transformer over patches of a log-mel spectrogram.

Patches of 16 x 16 every 10 bands and 10 frames, embeddings of their band and of their time
learned apart, a class and a distillation token, twelve pre-norm blocks. Own implementation from
the facts of the papers (arXiv:2110.05069; DeiT, arXiv:2012.12877); its state_dict has the
published keys and shapes. The dropping of patches belongs to training and is not here.
"""

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from understudy.teachers.frontends import KaldiLogMel
from understudy.teachers.tagger import CLASSES, Tagger
from understudy.timing import duration_samples

DIM = 768
HEADS = 12
BLOCKS = 12
PATCH, STRIDE = 16, 10
GRID = (12, 99)
"""Bands and, at most, columns of patches: 128 bands and 1000 frames."""
EPS = 1e-6
"""Of all layer normalisations but the head's."""
SCENE_WINDOW_S, SCENE_HOP_S = 10.0, 2.5
"""Of HEAR scenes beyond 10 s."""


class Attention(nn.Module):
    """Multi-head self-attention; only the first `n_out` tokens ask."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(DIM, 3 * DIM)
        self.proj = nn.Linear(DIM, DIM)

    def forward(self, tokens: torch.Tensor, n_out: int | None = None) -> torch.Tensor:
        query, key, value = self.qkv(tokens).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        heads = scaled_dot_product_attention(query[:, :, :n_out], key, value)
        return self.proj(heads.transpose(1, 2).flatten(2))


class Perceptron(nn.Module):
    """Two layers with an exact GELU between them."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(DIM, 4 * DIM)
        self.fc2 = nn.Linear(4 * DIM, DIM)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(tokens)))


class Block(nn.Module):
    """Tokens (batch, token, 768) -> the first `n_out` of them (by default all) after a block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(DIM, eps=EPS)
        self.attn = Attention()
        self.norm2 = nn.LayerNorm(DIM, eps=EPS)
        self.mlp = Perceptron()

    def forward(self, tokens: torch.Tensor, n_out: int | None = None) -> torch.Tensor:
        tokens = tokens[:, :n_out] + self.attn(self.norm1(tokens), n_out)
        return tokens + self.mlp(self.norm2(tokens))


class Patches(nn.Module):
    """Holder of the patch convolution, for its key's sake."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, DIM, PATCH, STRIDE)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.proj(image)


class Transformer(nn.Module):
    """Log-mel (batch, 128, frames) -> logits (batch, 527), embedding (batch, 768).

    From 16 to 1005 frames. The embedding is the mean of the class and the distillation token.
    """

    def __init__(self) -> None:
        super().__init__()
        bands, columns = GRID
        self.cls_token = nn.Parameter(torch.empty(1, 1, DIM))
        self.dist_token = nn.Parameter(torch.empty(1, 1, DIM))
        self.new_pos_embed = nn.Parameter(torch.empty(1, 2, DIM))
        self.freq_new_pos_embed = nn.Parameter(torch.empty(1, DIM, bands, 1))
        self.time_new_pos_embed = nn.Parameter(torch.empty(1, DIM, 1, columns))
        self.patch_embed = Patches()
        self.blocks = nn.ModuleList([Block() for _ in range(BLOCKS)])
        self.norm = nn.LayerNorm(DIM, eps=EPS)
        self.head = nn.Sequential(nn.LayerNorm(DIM), nn.Linear(DIM, CLASSES))
        self.head_dist = nn.Linear(DIM, CLASSES)  # published, and of no use after training

    def random_(self, generator: torch.Generator) -> None:
        """Tokens and positions as at the start of training."""
        for parameter in self.parameters(recurse=False):
            nn.init.trunc_normal_(parameter, std=0.02, generator=generator)

    def tokens(self, log_mel: torch.Tensor) -> torch.Tensor:
        """Input of the first block, (batch, 2 + 12 * columns, 768): patches band by band."""
        patches = self.patch_embed(log_mel.unsqueeze(1))
        time = self.time_new_pos_embed[..., : patches.shape[3]]
        patches = (patches + time + self.freq_new_pos_embed).flatten(2).transpose(1, 2)
        special = torch.cat([self.cls_token, self.dist_token], dim=1) + self.new_pos_embed
        return torch.cat([special.expand(len(patches), -1, -1), patches], dim=1)

    def embed(self, log_mel: torch.Tensor) -> torch.Tensor:
        """Embedding (batch, 768) alone."""
        tokens = self.tokens(log_mel)
        for block in self.blocks[:-1]:
            tokens = block(tokens)
        return self.norm(self.blocks[-1](tokens, 2)).mean(1)  # the others are not read any more

    def forward(self, log_mel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        embedding = self.embed(log_mel)
        return self.head(embedding), embedding


class Passt(Tagger):
    """Teacher `passt`. Its HEAR scenes and timestamps are those of hear21passt."""

    hear_padding = "reflect"

    def _make_front_end(self) -> KaldiLogMel:
        return KaldiLogMel()

    def _make_network(self) -> Transformer:
        return Transformer()

    def scene(self, audio: torch.Tensor) -> torch.Tensor:
        """The whole clip in one pass up to 10 s; the mean of overlapping windows beyond."""
        if audio.shape[-1] <= duration_samples(SCENE_WINDOW_S, self.card.sample_rate):
            return super().scene(audio)
        return self.centred(audio, SCENE_WINDOW_S, SCENE_HOP_S).embedding.mean(1)
