"""A Griffe extension: what the stubs of the native modules cannot say, their docstrings say.

Classes compiled from Cython are described to Griffe by their `.pyi` stubs, which have types and no
docstrings. The docstrings are taken from the compiled classes themselves.
"""

import re
from importlib import import_module
from inspect import getdoc
from typing import Any

import griffe


class NativeDocstrings(griffe.Extension):
    """Gives objects that come from a stub the docstring of the compiled object of the same name."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        path = obj.filepath
        if obj.docstring or obj.is_module or isinstance(path, list) or path.suffix != ".pyi":
            return
        names = obj.path.split(".")
        module = ".".join(obj.module.path.split("."))
        found: Any = import_module(module)
        for name in names[module.count(".") + 1 :]:
            found = getattr(found, name, None)
        if obj.is_attribute and not hasattr(type(found), "__get__") and not isinstance(found, property):
            return
        text = getdoc(found)
        if text:
            obj.docstring = griffe.Docstring(listed(text), lineno=1, parent=obj)


def listed(text: str) -> str:
    """Aligned lines of "name:   meaning" as a list."""
    return re.sub(r"^(\w+): +(?=\S)", r"- `\1`: ", text, flags=re.MULTILINE)
