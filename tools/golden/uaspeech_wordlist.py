"""A workbook of Excel 97 in the layout of UASpeech's word list, with words of our own; made with xlwt 1.3.0.

python tools/golden/uaspeech_wordlist.py tests/projects/euphonia/golden/speaker_wordlist.xls
"""

import sys

import xlwt

WORDS = {
    "zero": "D0", "alpha": "LA", "command": "C1", "the": "CW1", "advice": "CW100",
    "naturalization": "B1_UW1", "frugality": "B2_UW1", "moonshower": "B3_UW1", 42: "CW2",
}  # fmt: skip
SPEAKERS = [
    ["Speaker", "Age", "Speech Intelligibility", "Dysarthria Diagnosis"],
    ["M04", ">18", "Very low (2%)", "Spastic"],
    ["F03", 51, "Very low", "Spastic"],
    ["", "", "(6%)", ""],
    ["M16", "", "Low (43%)", "Spastic"],
    ["F04", 18, "Mid (62%)", "Athetoid"],
    ["M14", 40, "High (90.4%)", "Spastic"],
]


def main() -> None:
    book = xlwt.Workbook()
    speakers, words = book.add_sheet("Speaker"), book.add_sheet("Word_filename")
    for row, cells in enumerate(SPEAKERS):
        for column, cell in enumerate(cells):
            speakers.write(row, column, cell)
    for row, cells in enumerate([("WORD", "FILE NAME"), *WORDS.items()]):
        for column, cell in enumerate(cells):
            words.write(row, column, cell)
    book.save(sys.argv[1])


if __name__ == "__main__":
    main()
