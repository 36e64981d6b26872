"""Trained rows of the embedding table for new tokens, as peft runs them. Sizes only.

Source: peft 0.21 tuners/trainable_tokens/layer.py. Every forward pass copies the whole table with the trained rows in their
places (get_merged_weights: index_copy), looks up in the copy and drops it; the backward pass makes a gradient as large as the
table and picks the trained rows out of it; index_copy keeps its rows for that (torch derivatives.yaml:
expand_as(source)). The rows as they were are kept beside the trained ones.
"""

from __future__ import annotations

from cloudtune.memory.autograd import Node, Run, Saved, Value
from cloudtune.memory.ops import Grads, Weight, cast

INDEX_WORD = 8


def look_up(run: Run, tokens: int, width: int, table: Weight, rows: Weight) -> Value:
    """The embeddings of ``tokens`` out of the table with the trained ``rows`` in it."""
    index = run.new(rows.count // width, INDEX_WORD, "ids of new tokens")
    narrow = cast(run, Value(None, rows.count, rows.word, rows.leaf), table.word, "new rows")
    saved = run.save(index, narrow.view())
    whole = run.new(table.count, table.word, "table with new rows")
    run.link(whole, (narrow.node,), _rows_back, saved, rows.count)
    del narrow, index
    out = run.new(tokens * width, table.word, "embeddings")
    return run.link(out, (whole.node,), _table_back, run.save(None), table.count)


def _table_back(run: Run, _saved: Saved, grad: Value, node: Node) -> Grads:
    return (run.new(node.extra, grad.word, "gradient of the table"),)


def _rows_back(run: Run, _saved: Saved, grad: Value, node: Node) -> Grads:
    return (run.new(node.extra, grad.word, "gradient of new rows"),)
