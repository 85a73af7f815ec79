"""Whether Kubernetes would take an object: by the models of its own client, made of the server's schema."""

import re
from typing import Any

from kubernetes import client

PLAIN = {"str": str, "int": int, "bool": bool, "float": float}


def faults(kind: str, value: Any, where: str) -> list[str]:
    """What the server would refuse of an object of a model such as `V1Job`: unknown, missing and mistyped fields."""
    if kind in PLAIN:
        return [] if type(value) is PLAIN[kind] else [f"{where}: {value!r} is no {kind}"]
    if kind == "object":
        return []
    if matched := re.fullmatch(r"list\[(.+)\]", kind):
        if not isinstance(value, list):
            return [f"{where}: {value!r} is no list"]
        return [fault for at, one in enumerate(value) for fault in faults(matched[1], one, f"{where}[{at}]")]
    if matched := re.fullmatch(r"dict[\[(]str, (.+)[\])]", kind):
        if not isinstance(value, dict):
            return [f"{where}: {value!r} is no mapping"]
        return [fault for name, one in value.items() for fault in faults(matched[1], one, f"{where}.{name}")]
    model = getattr(client, kind)
    fields = {json_name: name for name, json_name in model.attribute_map.items()}
    if not isinstance(value, dict):
        return [f"{where}: {value!r} is no {kind}"]
    found = [f"{where}.{name}: {kind} has no such field" for name in value.keys() - fields.keys()]
    given = {name: one for name, one in value.items() if name in fields}
    for name, one in given.items():
        found += faults(model.openapi_types[fields[name]], one, f"{where}.{name}")
    try:
        model(**{fields[name]: one for name, one in given.items()})
    except ValueError as error:
        found.append(f"{where}: {error}")
    return found
