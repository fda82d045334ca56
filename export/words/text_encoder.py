"""The graph that turns texts into queries."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sam2edge.export.rewrites import frozen
from sam2edge.export.words.source import WordsSource
from sam2edge.export.words.transformer import Block, Unit

_LATER = -30000.0
"""Added to the scores of later tokens, in place of minus infinity: FP16 has it, too."""


class TextEncoder(nn.Module):
    """ids int32 [Q,L] → queries float32 [Q,D].

    What stands after the end of a text does not matter, because no token sees later ones and the end's is the result.
    """

    def __init__(self, source: WordsSource) -> None:
        super().__init__()
        base, numbers = source.model.base_model, source.numbers
        model, length = base.text_model, numbers.context
        self.tokens = model.embeddings.token_embedding
        self.position = frozen(model.embeddings.position_embedding.weight[:length])
        causal = torch.full((length, length), _LATER).triu(1)
        self.blocks = nn.ModuleList(Block(layer, length, causal) for layer in model.encoder.layers)
        self.norm, self.projection, self.unit = model.final_layer_norm, base.text_projection, Unit()
        self.end = numbers.end_token

    def forward(self, ids: Tensor) -> Tensor:
        """Encode texts."""
        x = self.tokens(ids) + self.position
        for block in self.blocks:
            x = block(x)
        at_end = (ids == self.end).to(x.dtype).unsqueeze(1)  # a product picks the token, where ArgMax would need int64
        return self.unit(self.projection((at_end @ self.norm(x)).squeeze(1)))
