"""How patches become embeddings that a text can be compared with.

Training compares the class token alone with texts, so what the last block writes into the patches was never
asked to mean anything there. Its residual stream and its MLP carry what all patches share; what the
attention adds is what differs. So the last block of the ``dense`` graph keeps the attention alone, and a
patch attends to those whose queries are like its own rather than to what the class token needs (ClearCLIP,
arXiv 2407.12442). A share of the window's own embedding is then added, or taken away where class tokens leak
into the patches (SegEarth-OV, arXiv 2410.01768).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lrsclip_train.model import ClipConfig

__all__ = ["DenseRecipe", "dense_recipe"]


@dataclass(frozen=True, slots=True)
class DenseRecipe:
    """What is free in it.

    Attributes:
        class_share: How much of the unit class embedding is added to the unit embedding of each patch, not 0.
    """

    class_share: float

    @property
    def name(self) -> str:
        """What a bundle's manifest says of its graphs.

        Example:
            >>> DenseRecipe(0.5).name, DenseRecipe(-0.3).name
            ('query-query, class +0.5', 'query-query, class -0.3')
        """
        return f"query-query, class {self.class_share:+g}"


def dense_recipe(config: ClipConfig) -> DenseRecipe:
    """The recipe for a shape.

    For the built-in shape a share was measured. For the published ViTs, whose class tokens are known to leak,
    the published share is taken away.
    """
    return DenseRecipe(class_share=-0.3 if config.stem == "none" else 0.5)
