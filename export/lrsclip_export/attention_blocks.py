"""Self-attention in a graph, found by its shape, so that a runtime's one operator can take its place."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from lrsclip_export.graph_source import SourceGraph, attributes_of

__all__ = ["AttentionBlock", "attention_blocks"]

_HEADS_FIRST, _KEYS_TURNED = [0, 2, 1, 3], [0, 2, 3, 1]


@dataclass(frozen=True, slots=True)
class AttentionBlock:
    """``softmax(q k^T + mask) v`` over all tokens, where one product makes q, k and v.

    The scale of the logits is part of the weight.

    Attributes:
        product: Output of the MatMul that makes q, k and v, of C columns each.
        bias: The (3 C,) constant added to it.
        joined: (N, T, C) output, the heads side by side.
        inside: Outputs of all nodes from the product to ``joined``.
        heads: Number of heads.
        head_dim: C over ``heads``.
        causal: Whether a token sees only itself and those before it.
    """

    product: str
    bias: str
    joined: str
    inside: frozenset[str]
    heads: int
    head_dim: int
    causal: bool


def attention_blocks(source: SourceGraph) -> tuple[AttentionBlock, ...]:
    """Every block of a graph that has this shape and whose inner values nothing else reads."""
    nodes = source.nodes()
    reader = _Reader(source, nodes)
    found = (reader.block(node) for node in nodes if node.op_type == "Softmax")
    return tuple(block for block in found if block is not None)


class _Reader:
    def __init__(self, source: SourceGraph, nodes: list[Any]) -> None:
        self._source = source
        self._makers = {output: node for node in nodes for output in node.output}
        self._users: dict[str, list[Any]] = {}
        for node in nodes:
            for name in node.input:
                self._users.setdefault(name, []).append(node)
        self._reads = Counter(name for node in nodes for name in node.input)
        self._reads.update(value.name for value in source.model.graph.output)

    def block(self, softmax: Any) -> AttentionBlock | None:
        chain = [softmax]
        logits, causal = self._maker(softmax.input[0], "MatMul"), False
        if logits is None:
            masked = self._maker(softmax.input[0], "Add")
            logits = None if masked is None else self._maker(masked.input[0], "MatMul")
            if masked is None or logits is None or not self._is_causal(masked.input[1]):
                return None
            chain.append(masked)
            causal = True
        mixed = self._user(softmax.output[0], "MatMul")
        turned = None if mixed is None else self._user(mixed.output[0], "Transpose")
        joined = None if turned is None else self._user(turned.output[0], "Reshape")
        if mixed is None or turned is None or joined is None or self._order(turned) != _HEADS_FIRST:
            return None
        chain += [logits, mixed, turned, joined]
        sides = (
            (logits.input[0], _HEADS_FIRST),
            (logits.input[1], _KEYS_TURNED),
            (mixed.input[1], _HEADS_FIRST),
        )
        rows, shapes = [], []
        for value, order in sides:
            transpose = self._maker(value, "Transpose")
            reshape = None if transpose is None else self._maker(transpose.input[0], "Reshape")
            if transpose is None or reshape is None or self._order(transpose) != order:
                return None
            chain += [transpose, reshape]
            rows.append(reshape.input[0])
            shapes.append(self._source.array(reshape.input[1]).tolist())
        split = self._maker(rows[0], "Split")
        added = None if split is None else self._maker(split.input[0], "Add")
        product = None if added is None else self._maker(added.input[0], "MatMul")
        if split is None or added is None or product is None:
            return None
        if list(split.output) != rows or len({tuple(shape) for shape in shapes}) != 1:
            return None
        constants = (product.input[1], added.input[1])
        heads, head_dim = shapes[0][-2:]
        if not all(map(self._source.is_constant, constants)) or self._source.shape(constants[1]) != (
            3 * heads * head_dim,
        ):
            return None
        chain += [split, added, product]
        inside = frozenset(output for node in chain for output in node.output)
        inner = inside - {joined.output[0]}
        if any(self._reads[name] != 1 for name in inner):
            return None
        return AttentionBlock(
            product.output[0], constants[1], joined.output[0], inside, heads, head_dim, causal
        )

    def _maker(self, value: str, operator: str) -> Any:
        node = self._makers.get(value)
        return node if node is not None and node.op_type == operator else None

    def _user(self, value: str, operator: str) -> Any:
        users = self._users.get(value, [])
        return users[0] if len(users) == 1 and users[0].op_type == operator else None

    def _order(self, transpose: Any) -> list[int]:
        return list(attributes_of(transpose)["perm"])

    def _is_causal(self, value: str) -> bool:
        """Whether a mask is the corner, of as many rows as columns, of one that hides all later tokens."""
        while not self._source.is_constant(value):
            node = self._makers.get(value)
            if node is None or node.op_type != "Slice":
                return False
            value = node.input[0]
        mask = self._source.array(value).astype(np.float32)
        if mask.ndim < 2 or mask.shape[-1] != mask.shape[-2] or mask.size != mask.shape[-1] ** 2:
            return False
        square = mask.reshape(mask.shape[-2:])
        later = np.triu(np.ones(square.shape, bool), 1)
        return bool((square[later] <= -1e4).all() and (square[~later] == 0).all())
