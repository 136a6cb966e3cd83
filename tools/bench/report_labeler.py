"""Speed of the report labeler on one core, and its agreement with Open-i where one has that collection.

    python tools/bench/report_labeler.py [--openi NLMCXR_reports.tgz] [--reports 4000] [--rounds 5]

Without `--openi` the reports are put together from sentences of this file with random sides, sizes and
levels. With it they are those of the collection; sensitivity and specificity against its index terms are
given for report numbers divisible by 5, which the phrases were not written on, and for the others, which
they were. Uncertain reports count as abnormal; unreadable and unindexed ones are left out.

Every round labels all reports once in CPU seconds of this process, starting with empty caches; the median is
reported, one JSON line a figure.
"""

import argparse
import json
import random
import statistics
import time

SENTENCES = (
    "The heart is {normal} in size.",
    "Heart size is {enlarged} enlarged.",
    "There is a {size} {side} pleural effusion with {side} basilar atelectasis.",
    "No focal consolidation, pleural effusion, or pneumothorax.",
    "Stable {number} mm nodule in the {side} {lobe} lobe.",
    "Degenerative changes of the thoracic spine at T{number}.",
    "The lungs are clear without evidence of infiltrate.",
    "Opacity in the {side} {lobe} lobe may represent pneumonia versus atelectasis.",
    "Interval placement of a {side} internal jugular catheter, tip {number} cm above the "
    "cavoatrial junction.",
    "Mediastinal contours are within normal limits.",
    "No acute cardiopulmonary abnormality.",
    "The previously seen {side} effusion has resolved.",
    "Cannot exclude a {size} {side} apical pneumothorax.",
)
WORDS = {
    "normal": ("normal", "top normal", "stable and normal"),
    "enlarged": ("mildly", "moderately", "not"),
    "size": ("small", "moderate", "large", "trace"),
    "side": ("left", "right"),
    "lobe": ("upper", "lower"),
    "number": tuple(map(str, range(1, 13))),
}


def made_up_reports(count):
    draw = random.Random(0)

    def section(sentences):
        chosen = draw.choices(SENTENCES, k=sentences)
        return " ".join(s.format(**{name: draw.choice(some) for name, some in WORDS.items()}) for s in chosen)

    return [f"INDICATION: Cough.\nFINDINGS: {section(5)}\nIMPRESSION: {section(2)}" for _ in range(count)]


def rate(texts):
    from offsites_jax.projects.chest_xray.report_text import labeler as reports
    from offsites_jax.projects.chest_xray.report_text import mentions

    mentions.forget()
    start = time.process_time()
    for text in texts:
        reports.label(text)
    return len(texts) / (time.process_time() - start)


def agreement(found):
    from offsites_jax.projects.chest_xray.report_text import labeler as reports
    from offsites_jax.projects.chest_xray.tables import openi

    for name, wanted in (("held_out", True), ("written_on", False)):
        part = [report for report in found if (report.number % 5 == 0) == wanted]
        result = openi.agreement((report, reports.label(report.text)) for report in part)
        about = {"part": name, "reports": len(part), **result._asdict()}
        yield {"name": "report_sensitivity", "value": round(result.sensitivity, 4), **about}
        yield {"name": "report_specificity", "value": round(result.specificity, 4), **about}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--openi", default="")
    parser.add_argument("--reports", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    from offsites_jax.projects.chest_xray.report_text import labeler as reports
    from offsites_jax.projects.chest_xray.tables import openi

    found = list(openi.read_reports(options.openi)) if options.openi else []
    texts = [report.text for report in found] or made_up_reports(options.reports)
    reports.label(texts[0])  # reads the lexicon
    rates = [rate(texts) for _ in range(options.rounds)]
    print(
        json.dumps(
            {
                "name": "reports_per_second_per_core",
                "value": round(statistics.median(rates)),
                "rounds": [round(r) for r in rates],
                "reports": len(texts),
                "characters": round(statistics.mean(map(len, texts))),
            }
        )
    )
    for figure in agreement(found) if found else ():
        print(json.dumps(figure))


if __name__ == "__main__":
    main()
