"""The operations that models are made of, as torch runs them on CUDA: what each allocates forward and backward.

Every function takes the run and values and returns a value; nothing is computed. Order matters: an operation packs
what it saves before or after it allocates its result exactly where torch does, because a recomputation stops there.
Sources: torch/csrc/autograd/FunctionsManual.cpp and the CUDA kernels named beside the less obvious ones.
"""

from __future__ import annotations

from cloudtune.memory.autograd import Gather, Leaf, Node, Run, Saved, Value

Grads = tuple[Value | None, ...]


def tracked(run: Run, *values: Value) -> bool:
    """Whether the result of an operation on ``values`` gets a node."""
    if run.grad_enabled:
        for value in values:  # not any(): asked ten thousand times for an estimate, and a generator takes three times as long
            if value.node is not None:
                return True
    return False


# ---- shape and type -------------------------------------------------------------------------------------------------


def view(run: Run, value: Value) -> Value:
    """A view: no memory, its own node."""
    out = value.view()
    if tracked(run, value):
        run.link(out, (value.node,), _pass_on)
    return out


def _pass_on(_run: Run, _saved: Saved, grad: Value, _node: Node) -> Grads:
    return (grad.view(),)


def heads_view(run: Run, value: Value, *, copied: bool) -> Value:
    """A projection seen as heads. ``copied``: its gradient comes with the heads before the tokens and is put in order by a copy."""
    out = value.view()
    if tracked(run, value):
        run.link(out, (value.node,), _put_in_order if copied else _pass_on)
    return out


def _put_in_order(run: Run, _saved: Saved, grad: Value, _node: Node) -> Grads:
    return (run.like(grad, "gradient, tokens first"),)


def narrow(run: Run, value: Value, count: int) -> Value:
    """A slice of ``count`` elements; its gradient is a full-size tensor of zeros with the slice filled in."""
    out = Value(value.store, count, value.word)
    if tracked(run, value):
        run.link(out, (value.node,), _narrow_back, (), value.count)
    return out


def _narrow_back(run: Run, _saved: Saved, grad: Value, node: Node) -> Grads:
    return (run.new(node.extra, grad.word, "slice gradient"),)


def split(run: Run, value: Value, counts: tuple[int, ...]) -> tuple[Value, ...]:
    """Pieces as views (chunk, split, unbind); their gradients are put together in one tensor."""
    pieces = tuple(Value(value.store, count, value.word) for count in counts)
    if not tracked(run, value):
        return pieces
    run.sequence += 1
    joint = Gather(run.sequence, (value.node,), _split_back, (), (value.count, value.word))
    for piece in pieces:
        run.link(piece, (joint,), _pass_on)
    return pieces


def _split_back(run: Run, _saved: Saved, _grad: Value, node: Node) -> Grads:
    count, word = node.extra
    return (run.new(count, word, "joined gradient"),)


def cast(run: Run, value: Value, word: int, name: str = "cast") -> Value:
    """Another number type; nothing happens when it is the same."""
    if value.word == word:
        return value
    out = run.new(value.count, word, name)
    if tracked(run, value):
        run.link(out, (value.node,), _cast_back, (), value.word)
    return out


def lowered(run: Run, value: Value) -> Value:
    """What autocast hands to a product: the 16-bit form of an fp32 tensor."""
    return cast(run, value, run.autocast, "autocast input") if run.autocast else value


def _cast_back(run: Run, _saved: Saved, grad: Value, node: Node) -> Grads:
    parent = node.parents[0]
    if isinstance(parent, Leaf):
        return (run.kept(grad.count, node.extra, f"gradient of {parent.name}"),)
    return (run.new(grad.count, node.extra, "gradient cast"),)


def copy(run: Run, value: Value, name: str = "copy", count: int = 0) -> Value:
    """A fresh contiguous copy (clone, contiguous, or reshape of a permuted tensor); ``count`` when it is expanded."""
    out = run.new(count or value.count, value.word, name)
    if tracked(run, value):
        run.link(out, (value.node,), _copy_back, (), value.count)
    return out


def _copy_back(run: Run, _saved: Saved, grad: Value, node: Node) -> Grads:
    if grad.count == node.extra:
        return (grad.view(),)
    return (run.new(node.extra, grad.word, "sum over expanded heads"),)


def concatenate(run: Run, parts: tuple[Value, ...], name: str = "concatenation") -> Value:
    """One tensor out of several; gradients are views."""
    out = run.new(sum(part.count for part in parts), parts[0].word, name)
    if tracked(run, *parts):
        run.link(out, tuple(part.node for part in parts), _concatenate_back, (), tuple(part.count for part in parts))
    return out


def _concatenate_back(_run: Run, _saved: Saved, grad: Value, node: Node) -> Grads:
    return tuple(Value(grad.store, count, grad.word) for count in node.extra)


# ---- element by element -----------------------------------------------------------------------------------------------


def add(run: Run, left: Value, right: Value, name: str = "sum") -> Value:
    """left + right; the wider type wins; both get the same gradient."""
    word = max(left.word, right.word)
    out = run.new(max(left.count, right.count), word, name)
    if tracked(run, left, right):
        run.link(out, (left.node, right.node), _add_back, (), ((left.word, left.count), (right.word, right.count)))
    return out


def _add_back(run: Run, _saved: Saved, grad: Value, node: Node) -> Grads:
    pieces: list[Value | None] = []
    for parent, (word, count) in zip(node.parents, node.extra, strict=True):
        if parent is None:
            pieces.append(None)
        elif word == grad.word and count == grad.count:
            pieces.append(grad)
        else:
            pieces.append(run.new(count, word, "gradient cast"))
    return tuple(pieces)


def scale(run: Run, value: Value, name: str = "scaled") -> Value:
    """value x number."""
    out = run.like(value, name)
    if tracked(run, value):
        run.link(out, (value.node,), _like_grad)
    return out


def _like_grad(run: Run, _saved: Saved, grad: Value, _node: Node) -> Grads:
    return (run.like(grad, "gradient"),)


def negate(run: Run, value: Value) -> Value:
    """-value."""
    return scale(run, value, "negated")


def multiply(run: Run, left: Value, right: Value, name: str = "product") -> Value:
    """left x right; keeps each factor that the other one's gradient needs. Smaller factors are broadcast."""
    saved = ()
    if tracked(run, left, right):
        saved = run.save(left if right.node is not None else None, right if left.node is not None else None)
    word = max(left.word, right.word)
    out = run.new(max(left.count, right.count), word, name)
    if tracked(run, left, right):
        run.link(out, (left.node, right.node), _multiply_back, saved, ((left.word, left.count), (right.word, right.count)))
    return out


def _multiply_back(run: Run, _saved: Saved, grad: Value, node: Node) -> Grads:
    pieces: list[Value | None] = []
    for parent, (word, count) in zip(node.parents, node.extra, strict=True):
        if parent is None:
            pieces.append(None)
            continue
        piece = run.like(grad, "gradient of a factor")
        if count != grad.count:
            piece = run.new(count, piece.word, "summed gradient")
        if word != piece.word:
            piece = run.new(count, word, "gradient cast")
        pieces.append(piece)
    return tuple(pieces)


def activation(run: Run, value: Value, kind: str = "silu", name: str = "activation") -> Value:
    """silu, gelu, relu: keeps its input (relu its result, which is as large). gelu_new is written out in Python."""
    if kind in {"gelu_new", "gelu_fast"}:
        return _gelu_new(run, value)
    if kind == "quick_gelu":
        return multiply(run, value, tanh(run, scale(run, value, "1.702 x"), "sigmoid"), name)
    saved = run.save(value) if tracked(run, value) else ()
    out = run.like(value, name)
    if tracked(run, value):
        run.link(out, (value.node,), _like_grad, saved)
    return out


def _gelu_new(run: Run, value: Value) -> Value:
    """0.5 · x · (1 + tanh(√(2/π) · (x + 0.044715 · x³))), operation by operation."""
    return multiply(
        run,
        scale(run, value, "x / 2"),
        shift(run, tanh(run, scale(run, add(run, value, scale(run, power(run, value), "scaled cube"), "inner"), "scaled inner"))),
        "activation",
    )


def power(run: Run, value: Value) -> Value:
    """value³: keeps its input."""
    saved = run.save(value) if tracked(run, value) else ()
    out = run.like(value, "power")
    if tracked(run, value):
        run.link(out, (value.node,), _square_back, saved)
    return out


def shift(run: Run, value: Value) -> Value:
    """value + number."""
    return _shift(run, value)


def tanh(run: Run, value: Value, name: str = "tanh") -> Value:
    """tanh, sigmoid, exp: keeps its result."""
    out = run.like(value, name)
    if tracked(run, value):
        saved = run.save(out.view())
        run.link(out, (value.node,), _like_grad, saved)
    return out


def dropout(run: Run, value: Value, probability: float) -> Value:
    """Fused dropout on CUDA keeps a mask of one byte per element; on the CPU the mask is a factor of the input's type."""
    if probability == 0:
        return value
    if not run.cuda:
        return multiply(run, value, run.like(value, "dropout mask"), "dropout")
    out = run.like(value, "dropout")
    mask = run.new(value.count, 1, "dropout mask")
    if tracked(run, value):
        run.link(out, (value.node,), _like_grad, run.save(mask))
    return out


# ---- products with weights --------------------------------------------------------------------------------------------


class Weight:
    """A parameter as products see it: its size, its word, and the leaf when it is trained."""

    __slots__ = ("count", "leaf", "name", "store", "word")

    def __init__(self, name: str, count: int, word: int, store: object = None, leaf: Leaf | None = None) -> None:
        self.name = name
        self.count = count
        self.word = word
        self.store = store
        self.leaf = leaf


def linear(run: Run, value: Value, weight: Weight, features: tuple[int, int], bias: Weight | None = None) -> Value:
    """x·Wᵀ + b with W (out, in). Keeps x when W is trained; W itself is always there."""
    out_features, in_features = features
    scratch = run.biased_product() if bias is not None else run.matrix_product()
    leaf, bias_leaf = weight.leaf, bias.leaf if bias is not None else None
    needed = run.grad_enabled and (value.node is not None or leaf is not None or bias_leaf is not None)
    saved = run.save(value if leaf is not None else None) if needed and (value.node is not None or leaf is not None) else ()
    out = run.new(value.count // in_features * out_features, value.word, weight.name)
    del scratch
    if needed:
        run.link(out, (bias_leaf, value.node, leaf), _linear_back, saved, (value.count, value.word, weight, bias))
    return out


def _linear_back(run: Run, _saved: Saved, grad: Value, node: Node) -> Grads:
    count, word, weight, bias = node.extra
    run.matrix_product()
    wanted = node.parents[2] is not None
    # torch makes the gradients in the order of their names: mat1, mat2, self for addmm, but mat2, self for mm
    of_weight = gradient_of(run, weight, grad.word) if wanted and bias is None else None
    of_value = run.new(count, word, "input gradient") if node.parents[1] is not None else None
    if wanted and of_weight is None:
        of_weight = gradient_of(run, weight, grad.word)
    of_bias = gradient_of(run, bias, grad.word) if node.parents[0] is not None else None
    return of_bias, of_value, of_weight


def gradient_of(run: Run, weight: Weight, word: int) -> Value:
    """A gradient of a parameter, in the type of the product that makes it."""
    return run.kept(weight.count, word, f"gradient of {weight.name}")


def matmul(run: Run, left: Value, right: Value, count: int, name: str) -> Value:
    """A batched product of two activations; keeps both as far as gradients need them."""
    left, right = lowered(run, left), lowered(run, right)
    run.matrix_product()
    saved = ()
    if tracked(run, left, right):
        saved = run.save(left if right.node is not None else None, right if left.node is not None else None)
    out = run.new(count, left.word, name)
    if tracked(run, left, right):
        run.link(out, (left.node, right.node), _matmul_back, saved, (left.count, right.count))
    return out


def _matmul_back(run: Run, _saved: Saved, grad: Value, node: Node) -> Grads:
    """bmm: mat2's gradient is made before self's."""
    run.matrix_product()
    (left, right), (of_left, of_right) = node.extra, node.parents
    second = run.new(right, grad.word, "product gradient") if of_right is not None else None
    first = run.new(left, grad.word, "product gradient") if of_left is not None else None
    return first, second


# ---- norms and softmax ------------------------------------------------------------------------------------------------


def square_mean(run: Run, value: Value, rows: int) -> Value:
    """mean(value²) over the last dimension, as pow then mean: pow keeps its input."""
    saved = run.save(value) if tracked(run, value) else ()
    squared = run.like(value, "square")
    if tracked(run, value):
        run.link(squared, (value.node,), _square_back, saved)
    mean = run.new(rows, value.word, "mean of squares")
    if squared.node is not None:
        run.link(mean, (squared.node,), _mean_back, (), value.count)
    return mean


def _square_back(run: Run, _saved: Saved, grad: Value, _node: Node) -> Grads:
    """grad x (2 x value¹): value to the power 1 and the product with 2 live to the end of the expression (pow_backward)."""
    factors = run.like(grad, "power gradient"), run.like(grad, "power gradient")
    out = run.like(grad, "square gradient")
    del factors
    return (out,)


def _mean_back(run: Run, _saved: Saved, grad: Value, node: Node) -> Grads:
    """The gradient is expanded (a view), then divided by the width (a tensor)."""
    return (run.new(node.extra, grad.word, "mean gradient"),)


def rsqrt(run: Run, value: Value) -> Value:
    """1/√(value + ε): keeps its result; both the sum and the result are small."""
    shifted = _shift(run, value)
    out = run.like(shifted, "inverse root")
    if tracked(run, shifted):
        run.link(out, (shifted.node,), _rsqrt_back, run.save(out.view()))
    return out


def _shift(run: Run, value: Value) -> Value:
    out = run.like(value, "shifted")
    if tracked(run, value):
        run.link(out, (value.node,), _pass_on)
    return out


def _rsqrt_back(run: Run, _saved: Saved, grad: Value, _node: Node) -> Grads:
    """-½ x grad x result³, small."""
    cube = run.like(grad, "cube")
    half = run.like(grad, "half")
    del cube
    out = run.like(grad, "inverse root gradient")
    del half
    return (out,)


def layer_norm(run: Run, value: Value, weight: Weight, bias: Weight | None, rows: int) -> Value:
    """Fused layer norm: keeps its input and one mean and one deviation per row in fp32."""
    out = run.like(value, "layer norm")
    mean = run.new(rows, 4, "layer norm mean")
    deviation = run.new(rows, 4, "layer norm deviation")
    leaves = (weight.leaf, bias.leaf if bias is not None else None)
    if run.grad_enabled and (value.node is not None or any(leaf is not None for leaf in leaves)):
        run.link(out, (value.node, *leaves), _layer_norm_back, run.save(value, mean, deviation), (weight, bias))
    return out


def _layer_norm_back(run: Run, _saved: Saved, grad: Value, node: Node) -> Grads:
    weight, bias = node.extra
    of_value = run.like(grad, "layer norm gradient") if node.parents[0] is not None else None
    of_weight = gradient_of(run, weight, weight.word) if node.parents[1] is not None else None
    of_bias = gradient_of(run, bias, bias.word) if node.parents[2] is not None else None
    return of_value, of_weight, of_bias


def softmax(run: Run, value: Value, out_word: int, name: str = "softmax") -> Value:
    """Softmax that may widen to fp32: keeps its result. Only CUDA's float16 is widened inside the kernel."""
    inside = run.cuda and run.half
    wide = run.new(value.count, out_word, "scores in fp32") if value.word != out_word and not inside else None
    out = run.new(value.count, out_word, name)
    if tracked(run, value):
        saved = run.save(out.view(), value) if run.softmax_keeps_input else run.save(out.view())
        run.link(out, (value.node,), _softmax_back, saved, (value.word, inside))
    del wide
    return out


def _softmax_back(run: Run, _saved: Saved, grad: Value, node: Node) -> Grads:
    """ATen SoftMax.cu makes grad x output after its result, a tensor that no trace shows."""
    word, inside = node.extra
    out = run.new(grad.count, word if inside else grad.word, "softmax gradient")
    product = run.like(grad, "softmax gradient x output") if run.cuda else None
    del product
    return (run.new(grad.count, word, "gradient cast"),) if word != out.word else (out,)


# ---- tables ---------------------------------------------------------------------------------------------------------


def embedding(run: Run, tokens: int, width: int, weight: Weight, name: str = "embeddings") -> Value:
    """Rows of a table; the gradient of a trained table is as large as the table."""
    out = run.new(tokens * width, weight.word, name)
    if run.grad_enabled and weight.leaf is not None:
        run.link(out, (weight.leaf,), _embedding_back, run.save(None), weight)
    return out


def _embedding_back(run: Run, _saved: Saved, _grad: Value, node: Node) -> Grads:
    return (gradient_of(run, node.extra, node.extra.word),)
