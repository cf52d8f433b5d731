"""The families of models that catdpo knows, a file each: what a family has beside the common parts, its names in the
Hugging Face layout and in GGUF. The trainer's side of the same is src/model/families."""

from catdpo_analysis.models.families import gemma3, llama, mistral, olmo2, qwen2, qwen3

FAMILIES = {module.FAMILY.name: module.FAMILY for module in (llama, mistral, qwen2, qwen3, gemma3, olmo2)}
OF_GGUF = {family.gguf_name: family for family in FAMILIES.values() if family.gguf_name}


def list_names(names):
    """llama, qwen2 and qwen3"""
    names = list(names)
    return ", ".join(names[:-1]) + " and " + names[-1]
