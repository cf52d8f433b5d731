"""HTML pages from templates: one file each, without any outside reference."""

import importlib.resources

import jinja2

from catdpo_analysis.files import h5io

FOLDERS = ("page", "behaviour", "report", "compare")  # packages with templates


def environment():
    folders = [importlib.resources.files("catdpo_analysis").joinpath(name, "templates") for name in FOLDERS]
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([str(folder) for folder in folders]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template, **context):
    """The text of a page."""
    return environment().get_template(template).render(**context)


def write(path, text):
    """Under its name once it is complete."""
    with h5io.atomic_path(path) as temporary:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
