"""Names of harm categories: which are names, which say that nothing is unsafe, which look like one another."""

import collections
import unicodedata

from catdpo_analysis.errors import UserError, shorten

NAME_BYTES = 63  # longest category name that the trainer takes, in UTF-8
MOST = 1024  # categories that the trainer takes
BENIGN, UNCATEGORISED = "benign", "uncategorised"

# Names that are no harm, letters and digits only: of what is safe, and of what nobody has named
SAFE_NAMES = {
    "benign", "benignprompt", "benignprompts", "safe", "safeprompt", "safeprompts", "saferesponse", "safecontent",
    "allsafe", "harmless", "nonharmful", "notharmful", "unharmful", "noharm", "notunsafe", "nonunsafe", "notoxicity",
    "nontoxic", "nottoxic", "noviolation", "noviolations",
}  # fmt: skip
NO_NAMES = {
    "", "none", "na", "nan", "null", "nil", "no", "false", "nocategory", "notapplicable", "uncategorised",
    "uncategorized",
}  # fmt: skip


def _letters(name):
    return "".join(letter for letter in unicodedata.normalize("NFKC", name).casefold() if letter.isalnum())


def check_category(name, place):
    """The trainer's rule for a category's name: one line of at most 63 bytes."""
    if len(name.encode("utf-8")) > NAME_BYTES or any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
        raise UserError(
            f"{place}: {shorten(repr(name), 90)} is no category name; it must be one line of at most {NAME_BYTES} bytes"
        )


def without_safe(names, benign):
    """(names of harms, what the others say): "safe", "none", or None where there are no others. `benign`: the name
    that this data set has for pairs of two safe responses."""
    harms, says = [], None
    for name in names:
        letters = _letters(name)
        if letters in SAFE_NAMES or letters == _letters(benign):
            says = "safe"
        elif letters in NO_NAMES:
            says = says or "none"
        else:
            harms.append(name)
    return harms, says


def check_number(names):
    """No more categories than the trainer takes."""
    if len(names) > MOST:
        raise UserError(
            f"{len(names)} categories, more than the {MOST} that the trainer takes (the first: "
            f"{', '.join(sorted(names)[:3])}); is this column the harm category? Name the right one with --column "
            "category=NAME, choose some with --categories, or pool the rare ones with --min-pairs N --rare pool"
        )


def _one_edit(a, b):
    """Whether two different texts are one letter apart: one more, one less, one other, or two exchanged."""
    if len(a) > len(b):
        a, b = b, a
    if len(b) - len(a) > 1:
        return False
    at = next((i for i in range(len(a)) if a[i] != b[i]), len(a))
    if len(a) < len(b):
        return a[at:] == b[at + 1 :]
    return a[at + 1 :] == b[at + 1 :] or (a[at + 2 :] == b[at + 2 :] and a[at : at + 2] == b[at : at + 2][::-1])


def look_alikes(counts):
    """Groups of category names that are probably one: equal but for case, white space, punctuation and Unicode form,
    or long and one letter apart (digits tell categories apart). `counts`: name -> pairs."""
    same = collections.defaultdict(list)
    for name in sorted(counts):
        same[_letters(name) or name].append(name)
    groups = {letters: list(names) for letters, names in same.items()}
    keys = sorted(letters for letters in groups if len(letters) >= 6)
    digits = {key: "".join(filter(str.isdigit, key)) for key in keys}
    for i, a in enumerate(keys):
        for b in keys[i + 1 :]:
            if groups[a] is not groups[b] and digits[a] == digits[b] and _one_edit(a, b):
                groups[a] += groups[b]
                for key in [key for key in keys if groups[key] is groups[b] and key != b]:
                    groups[key] = groups[a]
                groups[b] = groups[a]
    found = {id(group): group for group in groups.values() if len(group) > 1}
    return [sorted(group) for group in found.values()]
