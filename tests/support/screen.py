"""What a terminal would show: as much of one as progress displays need."""

from __future__ import annotations

import re

_PIECE = re.compile(
    r"\x1b\[(?P<args>[?0-9;]*)(?P<command>[A-Za-z])|(?P<control>[\r\n\b\x07])|(?P<text>[^\x1b\r\n\b\x07]+)"
)


def plain(output: str) -> str:
    """The text alone."""
    return "".join(piece["text"] or "" for piece in _PIECE.finditer(output))


class Screen:
    """Follows cursor movements and erasures; unlimited in height and width."""

    def __init__(self) -> None:
        self._rows: list[str] = [""]
        self._row = 0
        self._column = 0
        self.cursor_hidden = False

    @property
    def lines(self) -> list[str]:
        """What stands there, without the empty rows at the end."""
        return "\n".join(row.rstrip() for row in self._rows).rstrip("\n").split("\n")

    def feed(self, output: str) -> None:
        for piece in _PIECE.finditer(output):
            if piece["text"]:
                row = self._rows[self._row].ljust(self._column)
                self._rows[self._row] = row[: self._column] + piece["text"] + row[self._column + len(piece["text"]) :]
                self._column += len(piece["text"])
            elif piece["control"] == "\r":
                self._column = 0
            elif piece["control"] == "\n":
                self._row += 1
                self._column = 0
                if self._row == len(self._rows):
                    self._rows.append("")
            elif piece["command"]:
                self._command(piece["command"], piece["args"])

    def _command(self, command: str, args: str) -> None:
        if args == "?25":
            self.cursor_hidden = command == "l"
        elif command == "A":
            self._row = max(0, self._row - int(args or 1))
        elif command == "B":
            self._row = min(len(self._rows) - 1, self._row + int(args or 1))
        elif command == "K":
            row = self._rows[self._row]
            self._rows[self._row] = {"": row[: self._column], "0": row[: self._column]}.get(args, "")
        elif command != "m":
            raise AssertionError(f"a terminal would have to know {args}{command}")
