"""The build step of the C core: loaded by path by setuptools, imports nothing of Hermes.

Each header carries a ``cdef-begin`` .. ``cdef-end`` block; these blocks, in the order in which the headers include one
another, are what Python may call.  cffi turns them into one C file beside ours.
"""

from __future__ import annotations

import re
from pathlib import Path

import cffi
from setuptools import Extension
from setuptools.command.build_ext import build_ext as _build_ext

CDEF = re.compile(r"/\* cdef-begin.*?\*/(.*?)/\* cdef-end \*/", re.DOTALL)
INCLUDE = re.compile(r'^#include "(\w+\.h)"', re.MULTILINE)


def in_include_order(directory: Path) -> list[Path]:
    """The headers of ``directory``, each after those that it includes."""
    ordered: list[Path] = []

    def visit(header: Path) -> None:
        if header in ordered:
            return
        for name in INCLUDE.findall(header.read_text()):
            if (directory / name).exists():  # else it is another directory's
                visit(directory / name)
        ordered.append(header)

    for header in sorted(directory.glob("*.h")):
        visit(header)
    return ordered


def write_glue(name: str, headers: list[Path], target: Path) -> None:
    """Write the C file that exports the cdef blocks of ``headers`` as the module ``name``."""
    ffi = cffi.FFI()
    ffi.cdef("\n".join(block for header in headers for block in CDEF.findall(header.read_text())))
    includes = "\n".join(f'#include "{header.name}"' for header in headers)
    ffi.set_source(name, includes, py_limited_api=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    ffi.emit_c_code(str(target))  # leaves an unchanged file alone


class build_ext(_build_ext):  # noqa: N801 - the name setuptools gives the command
    """Compiles every C file of an extension's source directory, and its glue."""

    def build_extensions(self) -> None:
        """Link without the library paths that the interpreter was linked with: an extension needs
        none, and a wheel would carry the paths of the machine that built it."""
        self.compiler.linker_so = [
            word for word in self.compiler.linker_so if not word.startswith("-Wl,-rpath")
        ]
        super().build_extensions()

    def build_extension(self, ext: Extension) -> None:
        """Expand the source directory and add the generated file, then build as usual."""
        sources = [str(path) for place in ext.sources for path in sorted(Path(place).rglob("*.c"))]
        headers = [path for place in ext.include_dirs for path in in_include_order(Path(place))]
        ext.depends = [*map(str, headers)]
        implemented = {Path(source).stem for source in sources}
        exported = [header for header in headers if header.stem in implemented]
        if exported:
            glue = Path(self.build_temp, f"{ext.name}.c")
            write_glue(ext.name, exported, glue)
            sources.append(str(glue))
        ext.sources = sources
        super().build_extension(ext)
