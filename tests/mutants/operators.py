"""Single-point mutants of a source file: each replaces one span of the text, and the rest stays byte for byte.

Left alone, since a change there cannot or need not be noticed: docstrings, annotations, type aliases, imports,
decorators, ``__repr__``, strings, what a raise, a warning or a log message says, and names of scopes and threads.
"""

import ast
import re
from collections.abc import Iterator
from typing import NamedTuple

MODULE = "<module>"


class Mutant(NamedTuple):
    """``before`` at bytes [start, end) of ``file`` becomes ``after``."""

    file: str
    line: int
    start: int
    end: int
    before: str
    after: str
    operator: str
    function: str  # the qualified name, as code objects have it, of the innermost function around it
    source_line: str  # of the first line, without its indentation

    def apply(self, source: bytes) -> bytes:
        return source[: self.start] + self.after.encode() + source[self.end :]

    @property
    def changes(self) -> bool:
        """Whether more than parentheses differs."""
        return self.before.strip("()") != self.after.strip("()")

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {one_line(self.before)}  ->  {one_line(self.after)}"


def one_line(text: str) -> str:
    return " ".join(text.split()) or "(nothing)"


COMPARISONS = {
    ast.Lt: ("<=", ">="),
    ast.LtE: ("<", ">"),
    ast.Gt: (">=", "<="),
    ast.GtE: (">", "<"),
    ast.Eq: ("!=",),
    ast.NotEq: ("==",),
    ast.Is: ("is not",),
    ast.IsNot: ("is",),
    ast.In: ("not in",),
    ast.NotIn: ("in",),
}
ARITHMETIC = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.FloorDiv: "*",
    ast.Mod: "//",
    ast.Pow: "*",
    ast.BitAnd: "|",
    ast.BitOr: "&",
    ast.LShift: ">>",
    ast.RShift: "<<",
}
SWAPPED_NAMES = [
    ("min", "max"),
    ("minimum", "maximum"),
    ("floor", "ceil"),
    ("any", "all"),
    ("argmin", "argmax"),
    ("sum", "mean"),
    ("sin", "cos"),
    ("zeros", "ones"),
    ("zeros_like", "ones_like"),
]
NAMES = {a: b for pair in SWAPPED_NAMES for a, b in (pair, pair[::-1])}
FIRST_ARGUMENT = {  # f(x, ...) -> x
    *("round", "abs", "square", "sqrt", "exp", "log", "clip", "floor", "ceil", "minimum", "maximum", "max", "min"),
    *("stop_gradient", "softmax", "log_softmax", "constrain", "sorted", "flip", "transpose", "cumsum", "norm"),
}
OWN_VALUE = {"swapaxes", "transpose", "astype", "T", "round", "clip"}  # x.f(...) -> x
UNNOTICED_KEYWORDS = ("name", "strict", "stacklevel", "err_msg")
MESSAGES = re.compile(r"^(log|logger|logging|warnings)\.|^(print|_?warn\w*|named_scope|jax\.named_scope)$")
ALIAS = re.compile(r"^[A-Z][A-Za-z]*[a-z][A-Za-z]*$")  # Metrics = dict[str, jax.Array]


def mutants(source: bytes, file: str) -> list[Mutant]:
    """Every mutant of ``source`` that compiles, in order."""
    return [mutant for mutant in candidates(source, file) if compiles(mutant.apply(source))]


def candidates(source: bytes, file: str) -> list[Mutant]:
    """Like ``mutants``, of which a few may not compile."""
    found = {mutant for mutant in _Walker(source, file).visit(ast.parse(source), MODULE) if mutant.changes}
    return sorted(found, key=lambda mutant: mutant[2:7])


def compiles(source: bytes) -> bool:
    try:
        ast.parse(source)
    except (SyntaxError, ValueError):
        return False
    return True


class _Walker:
    def __init__(self, source: bytes, file: str):
        self.source, self.file = source, file
        self.lines = source.split(b"\n")
        self.offsets = [0]
        for line in self.lines:
            self.offsets.append(self.offsets[-1] + len(line) + 1)
        self.function = MODULE

    def visit(self, node: ast.AST, function: str) -> Iterator[Mutant]:
        """Those of ``node`` and of all below it."""
        self.function = function
        yield from self.of(node)
        for child in _children(node):
            inside = function
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                around = "" if function == MODULE else function + "."
                is_local = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
                inside = around + ("<locals>." if is_local else "") + child.name
            yield from self.visit(child, inside)

    def of(self, node: ast.AST) -> Iterator[Mutant]:
        """Those of ``node`` itself."""
        for rule in RULES:
            for start, end, after in rule(self, node):
                yield self.mutant(start, end, after, rule.__name__.strip("_").replace("_", " "))

    def mutant(self, start: int, end: int, after: str, operator: str) -> Mutant:
        line = self.source.count(b"\n", 0, start) + 1
        return Mutant(
            file=self.file,
            line=line,
            start=start,
            end=end,
            before=self.source[start:end].decode(),
            after=after,
            operator=operator,
            function=self.function,
            source_line=self.lines[line - 1].decode().strip(),
        )

    def span(self, node: ast.AST) -> tuple[int, int]:
        return (
            self.offsets[node.lineno - 1] + node.col_offset,
            self.offsets[node.end_lineno - 1] + node.end_col_offset,
        )

    def text(self, node: ast.AST) -> str:
        start, end = self.span(node)
        return self.source[start:end].decode()

    def between(self, left: ast.AST, right: ast.AST, token: str) -> tuple[int, int] | None:
        """Where ``token`` stands between two neighbours, which parentheses and line ends may surround."""
        start, end = self.span(left)[1], self.span(right)[0]
        gap = self.source[start:end].decode()
        match = re.search(rf"(?<![\w*/<>=!&|]){re.escape(token)}(?![\w*/<>=&|])", gap)
        if "#" in gap or match is None:
            return None
        return start + len(gap[: match.start()].encode()), start + len(gap[: match.end()].encode())


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """What may be mutated below ``node``."""
    if isinstance(node, (ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom, ast.Assert)):
        return
    if _is_message(node):
        return
    body = getattr(node, "body", None)
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "bases", "type_params", "type_comment"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or _is_docstring(child, body):
                continue
            if isinstance(child, ast.keyword) and child.arg in UNNOTICED_KEYWORDS:
                continue
            if isinstance(child, ast.FunctionDef) and child.name in ("__repr__", "__str__"):
                continue
            if isinstance(child, ast.Assign) and _is_alias(child):
                continue
            if isinstance(child, ast.With) and all(_is_message(item.context_expr) for item in child.items):
                yield from child.body
                continue
            yield child


def _is_docstring(node: ast.AST, body: object) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(body, list)


def _is_message(node: ast.AST) -> bool:
    node = node.value if isinstance(node, ast.Expr) else node
    return isinstance(node, ast.Call) and bool(MESSAGES.search(ast.unparse(node.func)))


def _is_alias(node: ast.Assign) -> bool:
    return all(isinstance(target, ast.Name) and ALIAS.match(target.id) for target in node.targets) and isinstance(
        node.value, (ast.Subscript, ast.BinOp, ast.Name, ast.Attribute)
    )


def _name(call: ast.Call) -> str:
    """f of f(x), x.f(y) and module.f(x)."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


Spans = Iterator[tuple[int, int, str]]


def _comparison_swapped(walker: _Walker, node: ast.AST) -> Spans:
    if not isinstance(node, ast.Compare):
        return
    operands = [node.left, *node.comparators]
    for left, operator, right in zip(operands, node.ops, operands[1:], strict=False):
        token = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}.get(
            type(operator)
        ) or {ast.Is: "is", ast.IsNot: "is not", ast.In: "in", ast.NotIn: "not in"}[type(operator)]
        found = walker.between(left, right, token)
        for other in COMPARISONS[type(operator)] if found else ():
            yield *found, other


def _arithmetic_swapped(walker: _Walker, node: ast.AST) -> Spans:
    tokens = {
        **{ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.Pow: "**"},
        **{ast.BitAnd: "&", ast.BitOr: "|", ast.LShift: "<<", ast.RShift: ">>"},
    }
    if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC and not _is_text(node):
        found = walker.between(node.left, node.right, tokens[type(node.op)])
        if found:
            yield *found, ARITHMETIC[type(node.op)]
    if isinstance(node, ast.AugAssign) and type(node.op) in ARITHMETIC and not _is_text(node.value):
        found = walker.between(node.target, node.value, tokens[type(node.op)] + "=")
        if found:
            yield *found, ARITHMETIC[type(node.op)] + "="


def _is_text(node: ast.AST) -> bool:
    return any(
        isinstance(part, ast.JoinedStr) or isinstance(part, ast.Constant) and isinstance(part.value, str)
        for part in ([node.left, node.right] if isinstance(node, ast.BinOp) else [node])
    )


def _operand_dropped(walker: _Walker, node: ast.AST) -> Spans:
    """``a + b`` -> ``a``."""
    if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC and not _is_text(node):
        yield *walker.span(node), f"({walker.text(node.left)})"


def _constant_changed(walker: _Walker, node: ast.AST) -> Spans:
    if not isinstance(node, ast.Constant) or isinstance(node.value, (bool, str, bytes)):
        return
    if isinstance(node.value, int):
        yield *walker.span(node), str(node.value + 1)
        if node.value > 1:
            yield *walker.span(node), str(node.value - 1)
    elif isinstance(node.value, float):
        small = node.value != 0 and abs(node.value) < 1e-2
        yield *walker.span(node), repr(float(f"{1.0 if node.value == 0 else node.value * (10 if small else 2):.9g}"))


def _flag_flipped(walker: _Walker, node: ast.AST) -> Spans:
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield *walker.span(node), str(not node.value)


def _sign_dropped(walker: _Walker, node: ast.AST) -> Spans:
    """``-x`` -> ``x`` and ``not x`` -> ``x``."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not, ast.Invert)):
        yield *walker.span(node), f"({walker.text(node.operand)})"


def _condition_negated(walker: _Walker, node: ast.AST) -> Spans:
    if isinstance(node, (ast.If, ast.IfExp, ast.While)) and not isinstance(node.test, ast.UnaryOp):
        yield *walker.span(node.test), f"(not ({walker.text(node.test)}))"
    for test in node.ifs if isinstance(node, ast.comprehension) else ():
        yield *walker.span(test), f"(not ({walker.text(test)}))"


def _and_or_swapped(walker: _Walker, node: ast.AST) -> Spans:
    if isinstance(node, ast.BoolOp):
        token, other = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            found = walker.between(left, right, token)
            if found and len(node.values) == 2:
                yield *found, other
        for value in node.values:  # one operand decides alone
            yield *walker.span(node), f"({walker.text(value)})"


def _function_swapped(walker: _Walker, node: ast.AST) -> Spans:
    if isinstance(node, ast.Call) and _name(node) in NAMES:
        end = walker.span(node.func)[1]
        yield end - len(_name(node)), end, NAMES[_name(node)]


def _call_dropped(walker: _Walker, node: ast.AST) -> Spans:
    """``jnp.square(x)`` -> ``x`` and ``x.astype(dtype)`` -> ``x``."""
    if not isinstance(node, ast.Call):
        return
    is_method = isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) not in ("jnp", "np", "math")
    if is_method and _name(node) in OWN_VALUE:
        yield *walker.span(node), walker.text(node.func.value)
    elif node.args and _name(node) in FIRST_ARGUMENT and not isinstance(node.args[0], (ast.Starred, ast.GeneratorExp)):
        yield *walker.span(node), f"({walker.text(node.args[0])})"


def _branches_swapped(walker: _Walker, node: ast.AST) -> Spans:
    """``jnp.where(c, a, b)`` -> ``jnp.where(c, b, a)``."""
    if isinstance(node, ast.Call) and _name(node) in ("where", "cond", "select") and len(node.args) == 3:
        start, end = walker.span(node.args[1])[0], walker.span(node.args[2])[1]
        yield start, end, f"{walker.text(node.args[2])}, {walker.text(node.args[1])}"


def _keyword_dropped(walker: _Walker, node: ast.AST) -> Spans:
    if not isinstance(node, ast.Call):
        return
    parts = sorted([*node.args, *node.keywords], key=lambda part: walker.span(part)[0])
    for index, part in enumerate(parts):
        if isinstance(part, ast.keyword) and part.arg not in (None, *UNNOTICED_KEYWORDS):
            start, end = walker.span(part)
            if index:
                start = walker.span(parts[index - 1])[1]
            elif len(parts) > 1:
                end = walker.span(parts[1])[0]
            yield start, end, ""


def _slice_bound_dropped(walker: _Walker, node: ast.AST) -> Spans:
    if isinstance(node, ast.Slice):
        for bound in (node.lower, node.upper, node.step):
            if bound is not None:
                yield *walker.span(bound), ""


def _raise_removed(walker: _Walker, node: ast.AST) -> Spans:
    if isinstance(node, ast.Raise):
        yield *walker.span(node), "pass"


def _statement_dropped(walker: _Walker, node: ast.AST) -> Spans:
    """One whose absence leaves no name unbound."""
    is_call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and not _is_message(node)
    is_store = isinstance(node, ast.Assign) and not any(isinstance(part, ast.Name) for part in node.targets)
    is_store = is_store and not any(isinstance(part, ast.Tuple) for part in node.targets)
    if is_call or is_store or isinstance(node, (ast.AugAssign, ast.Continue, ast.Break)):
        yield *walker.span(node), "pass"


RULES = (
    _comparison_swapped,
    _arithmetic_swapped,
    _operand_dropped,
    _constant_changed,
    _flag_flipped,
    _sign_dropped,
    _condition_negated,
    _and_or_swapped,
    _function_swapped,
    _call_dropped,
    _branches_swapped,
    _keyword_dropped,
    _slice_bound_dropped,
    _raise_removed,
    _statement_dropped,
)
