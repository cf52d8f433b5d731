"""What was done to rows, or is doubtful about them, without their being left out: each kind said once, with its count
and the first place."""

import collections

# kind -> what is said; {n}: "1 row", "12 rows"; {first}: file:line of the first; {detail}: what differs, most frequent
# first
KINDS = {
    "alias": "columns read under another name: {detail}",
    "repeat": "{n} with the prompt repeated at the start of both completions, where it was taken off (first: {first})",
    "assumed": (
        "{n} with a category and no safety flags: the rejected answer was assumed unsafe, so that a margin applies "
        "(is_chosen_safe and is_rejected_safe can say otherwise)"
    ),
    "safe name": "{n} with a category that names no harm ({detail}), which gives no margin (first: {first})",
    "two categories": "{n} with another prompt_category than category: prompt_category was taken (first: {first})",
    "both ways": "{n} with the answers of an earlier row the other way round (first: {first})",
    "contradiction": "{n} with other safety flags than an earlier row with the same answers: {detail}",
    "tools unused": "{n} with tools, of which the chat template writes nothing (first: {first})",
    "prefill": (
        "{n} with a prompt that ends with the start of an answer: as in TRL, the template closes that turn and opens "
        "another one (first: {first})"
    ),
    "bos twice": (
        "{n} with {detail} at the start of the text, before which the tokenizer adds another, as in TRL: take it out "
        "of "
        "the text (first: {first})"
    ),
    "eos twice": "{n} with {detail} at the end of an answer, behind which another follows, as in TRL (first: {first})",
    "reasoning": (
        "{n} with an answer whose reasoning the chat template leaves out, so that it is not trained on (first: "
        "{first}): "
        "{detail}"
    ),
    "untagged": "{n} with an answer that lacks the segment tag, so that it has no reasoning (first: {first})",
    "leak": "{n} with a prompt to generate from that is among the training pairs as well (first: {first})",
}


# TRL's words for a prompt whose end is not in prompt + completion, for each cause of it
KINDS |= {
    kind: (
        f"{{n}}: the tokenized prompt is not a prefix of the tokenized prompt+completion, because {cause}. The "
        "completion "
        "starts where they diverge, and this end of the prompt is left out of the training sequence: {detail}. The "
        "model is "
        "trained on a context that differs from the one it sees at inference (first: {first})"
    )
    for kind, cause in (
        ("merges", "tokens merge across the boundary"),
        ("turn", "a completion begins with another turn than the assistant's"),
        (
            "drops",
            "the chat template renders the prompt alone differently, and drops the reasoning of an earlier answer",
        ),
        ("renders", "the chat template renders the prompt alone differently"),
    )
}


class Notes:
    def __init__(self):
        self.rows, self.first = collections.Counter(), {}
        self.details = collections.defaultdict(collections.Counter)

    def add(self, kind, place, detail=""):
        self.rows[kind] += 1
        self.first.setdefault(kind, place)
        if detail:
            self.details[kind][detail] += 1

    def lines(self):
        result = []
        for kind, text in KINDS.items():
            if self.rows[kind]:
                details = self.details[kind].most_common()
                shown = ", ".join(
                    f"{name} ({count} row{'s' * (count != 1)})" if kind == "alias" else name
                    for name, count in details[:5]
                )
                shown += f" and {len(details) - 5} more" if len(details) > 5 else ""
                n = self.rows[kind]
                result.append(text.format(n=f"{n} row{'s' * (n != 1)}", first=self.first[kind], detail=shown))
        return result
