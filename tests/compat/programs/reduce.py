"""Makes a program that shows a difference shorter, as long as it shows the same one."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator

Path = tuple[tuple[str, int | None], ...]


def reduce(source: str, same: Callable[[str], bool], tries: int = 1500) -> str:
    """The shortest source found that is still the `same`.

    Args:
        source: the program.
        same: whether another source shows the same difference.
        tries: sources to try at most.
    """
    tree, budget, seen = ast.parse(source), tries, {source}
    improved = True
    while improved and budget > 0:
        improved = False
        skip = 0
        while budget > 0:  # goes on where the last success was
            for i, smaller in enumerate(smaller_trees(tree)):
                if i < skip:
                    continue
                text = as_source(smaller)
                if text is None or text in seen:
                    continue
                seen.add(text)
                budget -= 1
                if same(text):
                    tree, skip, improved = ast.parse(text), i, True
                    break
                if budget <= 0:
                    break
            else:
                break
    return as_source(tree) or source


def as_source(tree: ast.Module) -> str | None:
    try:
        text = ast.unparse(ast.fix_missing_locations(tree)) + "\n"
        ast.parse(text)
    except (SyntaxError, ValueError, AttributeError, TypeError):
        return None
    return text


def smaller_trees(tree: ast.Module) -> Iterator[ast.Module]:
    """The tree with one thing taken away, or half of a body; large things first."""
    for path in [(), *sorted(places(tree), key=len)]:
        body = getattr(at(tree, path), "body", None)
        if isinstance(body, list) and len(body) > 3:
            for half in (slice(len(body) // 2, None), slice(0, len(body) // 2)):
                other = copy.deepcopy(tree)
                del getattr(at(other, path), "body")[half]  # noqa: B009
                yield other
    for path in sorted(places(tree), key=len):
        for change in changes(at(tree, path)):
            other = copy.deepcopy(tree)
            if change(other, path):
                yield other


def places(node: ast.AST, path: Path = ()) -> Iterator[Path]:
    for name, value in ast.iter_fields(node):
        if isinstance(value, list):
            for i, one in enumerate(value):
                if isinstance(one, ast.AST):
                    yield (*path, (name, i))
                    yield from places(one, (*path, (name, i)))
        elif isinstance(value, ast.AST):
            yield (*path, (name, None))
            yield from places(value, (*path, (name, None)))


def at(tree: ast.AST, path: Path) -> ast.AST:
    node = tree
    for name, i in path:
        value = getattr(node, name)
        node = value if i is None else value[i]
    return node


Change = Callable[[ast.Module, Path], bool]


MODULE = ast.Attribute(ast.Name("nn", ast.Load()), "Module", ast.Load())


def changes(node: ast.AST) -> Iterator[Change]:
    """Ways to make what is at a place smaller."""
    if isinstance(node, ast.ClassDef):
        yield without_bases
    if isinstance(node, ast.stmt | ast.keyword | ast.alias):
        yield delete
    if isinstance(node, ast.If | ast.For | ast.With):
        yield replaced_by_body
    if isinstance(node, ast.expr):
        yield delete
        for child in parts(node):
            yield replaced(child)


def parts(node: ast.expr) -> Iterator[ast.expr]:
    """Expressions inside of an expression that may stand in its place."""
    if isinstance(node, ast.Call):
        yield from node.args[:2]
        yield node.func
        if isinstance(node.func, ast.Attribute):
            yield node.func.value
    elif isinstance(node, ast.BinOp):
        yield from (node.left, node.right)
    elif isinstance(node, ast.IfExp):
        yield from (node.body, node.orelse)
    elif isinstance(node, ast.Subscript):
        yield node.value
    elif isinstance(node, ast.Lambda):
        yield node.body
    elif isinstance(node, ast.Tuple | ast.List) and node.elts:
        yield node.elts[0]


def without_bases(tree: ast.Module, path: Path) -> bool:
    """Makes a class one of plain modules."""
    node = at(tree, path)
    if not isinstance(node, ast.ClassDef):
        return False
    node.bases, node.keywords = [MODULE], []
    return True


def delete(tree: ast.Module, path: Path) -> bool:
    """Takes a member out of its list."""
    name, i = path[-1]
    parent = at(tree, path[:-1])
    members = getattr(parent, name)
    if i is None or name in ("targets", "args") and isinstance(parent, ast.arguments):
        return False
    if isinstance(parent, ast.Dict):
        del parent.keys[i], parent.values[i]
        return True
    if name == "body" and len(members) == 1:
        if isinstance(members[0], ast.Pass):
            return False
        members[0] = ast.Pass()
        return True
    del members[i]
    return True


def put(tree: ast.Module, path: Path, new: list[ast.AST]) -> None:
    name, i = path[-1]
    parent = at(tree, path[:-1])
    if i is None:
        setattr(parent, name, new[0])
    else:
        getattr(parent, name)[i : i + 1] = new


def replaced_by_body(tree: ast.Module, path: Path) -> bool:
    node = at(tree, path)
    put(tree, path, list(getattr(node, "body")))  # noqa: B009
    return True


def replaced(child: ast.AST) -> Change:
    def change(tree: ast.Module, path: Path) -> bool:
        put(tree, path, [copy.deepcopy(child)])
        return True

    return change
