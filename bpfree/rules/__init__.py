"""Learning rules, one file each; `get` makes one from a name or a spec string."""

from importlib import import_module
from pkgutil import iter_modules

from bpfree.rules.rule import Rule
from bpfree.rules.spec import aliases, get, names, parse, program

__all__ = ["Rule", "aliases", "get", "names", "parse", "program"]

# A rule registers when its class is made, so a new file in this folder is all that a new rule needs.
for _module in iter_modules(__path__, f"{__name__}."):
    import_module(_module.name)
