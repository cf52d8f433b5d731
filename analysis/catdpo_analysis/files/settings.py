"""The settings of a run, as the trainer resolved them: config.json in its directory."""

import json
import os


def read_settings(run):
    """{"group.key": value}; {} where they are not known: a run that never began, or one of before config.json."""
    try:
        with open(os.path.join(run, "config.json"), encoding="utf-8", errors="replace") as file:
            groups = json.load(file)
        return {f"{group}.{key}": value for group, keys in groups.items() for key, value in keys.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def accepted_rate(settings):
    """The violation rate that the margins accept, None where it depends on the other categories' or is not known."""
    target = settings.get("margin.target")
    absolute = settings.get("margin.target_form", "absolute") == "absolute"
    return float(target) if absolute and isinstance(target, int | float) else None


def setting_text(value):
    """A value as short text for a table."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return "[" + ",".join(setting_text(item) for item in value) + "]"
    return "-" if value is None else str(value)
