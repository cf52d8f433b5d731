"""Rotary embedding in a config.json: the old layout (rope_theta, rope_scaling) and the new one (rope_parameters) say
the same thing in several places. They are compared; where they differ nothing is chosen."""

from catdpo_analysis.errors import UserError
from catdpo_analysis.models.families.family import FULL, SLIDING
from catdpo_analysis.models.hf_config import LARGEST, is_number, shown

THETA = 10000.0  # where no key says otherwise, as in transformers
NEEDED = {"default": (), "linear": ("factor",), "llama3": ("factor", "low_freq_factor", "high_freq_factor")}
PLAIN = {
    "rope_factor": 1.0,
    "rope_low_freq_factor": 1.0,
    "rope_high_freq_factor": 4.0,
    "rope_original_max_position": 0,
}


def read_rope(config, family, positions, notes):
    """The attributes rope_... of an Architecture. `notes` gets a line about what is not used."""
    full, sliding = {}, {}  # place -> what it says
    for place in ("rope_scaling", "rope_parameters"):
        values = config.get(place)
        if values is not None and not isinstance(values, dict):
            raise UserError(f"{config.path}: {place} is not an object")
        layers = [key for key, value in (values or {}).items() if isinstance(value, dict)]
        if layers and (not family.local_rope or set(values) - {FULL, SLIDING}):
            config.refuse(
                f"rotary embedding by kind of layer ({place}: {', '.join(layers)})",
                f"{family.title} has one for {FULL} and one for {SLIDING}"
                if family.local_rope
                else f"{family.title} has one for all layers",
            )
        for kind, found in ((FULL, full), (SLIDING, sliding)):
            if layers:
                found[f"{place}: {kind}"] = _read(config, f"{place}: {kind}", values.get(kind), kind, positions, notes)
            elif values and kind == FULL:
                found[place] = _read(config, place, values, kind, positions, notes)
    rope = _agree(config, full) or _read(config, "rope", {}, FULL, positions, notes)
    if family.local_rope:
        local = _agree(config, sliding) or _read(config, "rope", {}, SLIDING, positions, notes)
        if local["rope_type"] != "default":
            config.refuse(f"rope type {shown(local['rope_type'])} of {SLIDING}", f"the engine scales {FULL} only")
        rope["rope_local_base_freq"] = local["rope_theta"]
    return rope


def _agree(config, found):
    """What all places say, or None where there is none."""
    places = list(found)
    for other in places[1:]:
        for key, value in found[places[0]].items():
            if found[other][key] != value:
                name = key if key in ("rope_theta", "rope_type") else key.removeprefix("rope_")
                _disagree(config, f"{places[0]}: {name}", value, f"{other}: {name}", found[other][key])
    return found[places[0]] if places else None


def _disagree(config, here, value, there, other):
    raise UserError(
        f"{config.path}: {here} = {shown(value)}, but {there} = {shown(other)}; remove the one that the model was not "
        "trained with"
    )


def _inner(config, place, values, key, top):
    """A setting inside a place, or the one called `top` beside it: both must agree. null is as good as absent."""
    config.used.add(top)
    value, outer = values.get(key), config.values.get(top)
    if value is not None and outer is not None and value != outer:
        _disagree(config, top, outer, f"{place}: {key}", value)
    return outer if value is None else value


def _kind(config, place, values):
    kinds = {key: values[key] for key in ("rope_type", "type") if values.get(key) is not None}
    if len(set(map(shown, kinds.values()))) > 1:
        _disagree(config, f"{place}: rope_type", kinds["rope_type"], f"{place}: type", kinds["type"])
    kind = next(iter(kinds.values()), "default")
    if not isinstance(kind, str) or kind not in NEEDED:
        config.refuse(f"rope type {shown(kind)}", f"the engine has {', '.join(NEEDED)}")
    factor = values.get("factor")
    if kind == "default" and factor not in (None, 1):
        raise UserError(
            f"{config.path}: {place}: factor = {shown(factor)} without a type that it belongs to; say which "
            "(rope_type: linear or llama3), or remove the factor"
        )
    return kind


def _read(config, place, values, layers, positions, notes):
    """The attributes of one place. `layers`: of which kind of layer."""
    values = values or {}
    kind = _kind(config, place, values)
    top = "rope_theta" if layers == FULL else "rope_local_base_freq"
    theta = _inner(config, place, values, "rope_theta", top)
    theta = config.defaults.get(top, THETA) if theta is None else theta
    if not is_number(theta, 1e-6, 1e30):
        raise UserError(f"{config.path}: {top} = {shown(theta)} is not a valid number")
    partial = _inner(config, place, values, "partial_rotary_factor", "partial_rotary_factor")
    if partial not in (None, 1):
        config.refuse(f"partial_rotary_factor = {shown(partial)}", "the engine rotates whole heads")
    rope = {"rope_theta": float(theta), "rope_type": kind} | PLAIN
    known = {"rope_type", "type", "rope_theta", "partial_rotary_factor", "factor", *NEEDED[kind]}
    for key in NEEDED[kind]:
        value = values.get(key)
        if not is_number(value, 1e-6, 1e9):
            raise UserError(
                f"{config.path}: rope scaling of type {kind} needs a positive number for {key}, not {shown(value)}"
            )
        rope["rope_" + key] = float(value)
    if kind == "llama3":
        key = "original_max_position_embeddings"
        known.add(key)
        original = _inner(config, place, values, key, key) or positions
        if not is_number(original, 1, LARGEST) or original != int(original):
            raise UserError(f"{config.path}: {key} = {shown(original)} is not a valid count")
        rope["rope_original_max_position"] = int(original)
    unused = sorted(key for key, value in values.items() if key not in known and value is not None)
    if unused:
        notes.append(f"config.json: {place}: {len(unused)} not used by rope type {kind}: {', '.join(unused)}")
    return rope
