"""Files of prompts and pairs that are made on the way, for the program to read."""

import hashlib

from catdpo_analysis.prepare.ledger import Ledger
from catdpo_analysis.prepare.pairs_file import write_pairs
from catdpo_analysis.text.version import creator


def write_tokens(path, tokenizer, rows, sequences, parts, settings):
    """pairs.h5 with prompts (rows of formats.Prompt and their token ids) or `parts` (name -> pairs, encoded)."""
    digest = hashlib.sha256(repr(settings).encode())
    for sequence in sequences:
        digest.update(b"/" + sequence.tobytes())
    categories = sorted({name for row in rows for name in row.categories}) or ["all"]
    attributes = {
        "data_digest": digest.hexdigest(),
        "tokenizer_digest": tokenizer.tokenizer_digest,
        "template_digest": tokenizer.template_digest,
        "vocab_size": tokenizer.vocab_size,
        "max_length": 0,
        "settings": {"preparer": creator(), **settings},
        "inputs": [],
    }
    harm = [0] * len(categories)
    write_pairs(path, parts, (rows, sequences), categories, harm, Ledger(), attributes, tokenizer.templates)
