"""What never reaches the critic in training: broken lines, copied teacher jokes, talk to the judge.

Gates act on the training reward only. A near-copy of the *prompt* is not gated: it is scored and
gets at most the plain prompt's own score (see `rewards.lift`).
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence

from rewards.text import NEAR_COPY, is_near_copy, words
from rewards.types import Unfinished

GATES = (
    "unfinished",
    "empty",
    "lines",
    "emoji",
    "loop",
    "meta",
    "judge",
    "teacher-copy",
)
"""The causes `gate` can name, in the order in which they are looked for."""

_JOINERS = {"\u200d", "\ufe0e", "\ufe0f", "\u20e3"}
_META = re.compile(
    r"""^\W*(?:(?:sure|certainly|of\ course|okay|ok|absolutely|great)\b\W*)?
        (?:here(?:'s|\ is|\ are|\ goes)\s+(?:a|an|the|your|my|one|some)\b[^.!?]*
            \b(?:version|joke|rewrite|rewording|punchline|take|line|sentence|option)s?\b
        |i(?:'ve|\ have)?\ (?:re)?(?:wrote|written|phrased)\b.*\b(?:joke|version|line|sentence)\b
        |(?:the\ )?(?:funny|funnier|humorous)\ (?:version|rewrite|line)\b)
    |^\W*(?:funny|literal|joke|rewrite|rewritten|output|answer|response|assistant|user)\s*:
    |\b(?:funny|literal|assistant)\s*:\s
    |\bas\ an?\ (?:ai|language\ model)\b
    |\bfunn(?:y|ier)\ version\ of\ (?:the|this|your)\b
    |\blet\ me\ know\ if\ you\b.*\b(?:joke|version|another)\b""",
    re.IGNORECASE | re.VERBOSE,
)
_JUDGE = re.compile(
    r"""\b(?:dear|hey|hi|hello|attention|note\ to(?:\ the)?)\W+
        (?:judge|critic|rater|grader|evaluator)s?\b
    |\bignore\ (?:all\ |any\ |the\ |your\ )*(?:previous|prior|above|earlier)\b
    |\b(?:rate|score|grade|rank)\ (?:this|it|me|my\ (?:joke|answer|line))\b
    |\b(?:give|award)\ (?:this|it|me)(?:\ (?:joke|one|line|answer))?\ (?:an?\ (?:10|ten|9|nine)\b
        |full\ marks
        |(?:(?:an?|the)\ )?(?:high|top|best|maximum|perfect)\w*\ (?:score|rating|mark)s?)
    |\b(?:rating|score|verdict)\s*[:=]\s*\W*(?:[0-9]|[ab]\b)
    |(?<!\d)10\s*(?:/|out\ of)\s*10(?!\d)
    |\b(?:choose|pick|select|prefer|vote\ for)\ 
        (?:this\ (?:one|joke|answer|line)|(?:answer|option|joke)\ [ab]\b)
    |\b(?:answer|option|joke|response|candidate)\ [ab1-2]\ (?:is|was)\b
    |\bthis\ (?:joke|answer|response|rewrite)\ is\ (?:\w+\ ){0,2}
        (?:funn|best|better|hilarious|great|perfect)
    |\bthe\ other\ (?:joke|answer|response|candidate)\b
    |\[\[\s*\w+\s*\]\]|<\|[^|>]*\|>|\[/?INST\]""",
    re.IGNORECASE | re.VERBOSE,
)
_STUTTER = re.compile(r"(\w)\1{9,}", re.DOTALL)


class TeacherIndex:
    """Finds near-copies of teacher jokes among thousands, in time that does not grow with them.

    Two lines whose common subsequence is >= 0.8 of either's length share all but a fifth of their
    words, so they share one of the rarest fifth (and one more): only jokes found under those words
    are compared (prefix filtering, Chaudhuri et al. 2006, doi:10.1109/ICDE.2006.9). The answer is
    that of `rewards.text.is_near_copy` on every joke.
    """

    def __init__(self, jokes: Sequence[str]) -> None:
        """Index the jokes by their words."""
        self._words = [words(joke) for joke in jokes]
        self._counts = [Counter(line) for line in self._words]
        self._jokes = list(jokes)
        self._by_word: dict[tuple[str, int], list[int]] = defaultdict(list)
        for place, line in enumerate(self._words):
            for token in _numbered(line):
                self._by_word[token].append(place)

    def __len__(self) -> int:
        """How many jokes are indexed."""
        return len(self._jokes)

    def near(self, joke: str) -> str | None:
        """Return a teacher joke that `joke` is a near-copy of; None if there is none."""
        own = words(joke)
        if not own:
            return None
        rare_first = sorted(_numbered(own), key=lambda t: (len(self._by_word.get(t, ())), t))
        counts = Counter(own)
        misses = int(len(own) * (1 - NEAR_COPY) + 1e-9)
        for place in dict.fromkeys(
            i for token in rare_first[: misses + 1] for i in self._by_word.get(token, ())
        ):
            longest = max(len(own), len(self._words[place]))
            if min(len(own), len(self._words[place])) < NEAR_COPY * longest:
                continue
            theirs = self._counts[place]
            if sum(min(n, theirs[w]) for w, n in counts.items()) < NEAR_COPY * longest:
                continue
            if is_near_copy(self._jokes[place], joke):
                return self._jokes[place]
        return None


def _numbered(line: Sequence[str]) -> list[tuple[str, int]]:
    """Each word with how often it stood before, so that a word list becomes a set."""
    seen: Counter[str] = Counter()
    tokens = []
    for word in line:
        tokens.append((word, seen[word]))
        seen[word] += 1
    return tokens


def gate(prompt: str, joke: str, teacher_index: TeacherIndex | None) -> str:
    """Return why `joke` must not reach the critic, one of `GATES`; "" if it may.

    Args:
        prompt: the literal sentence; a near-copy of it passes here.
        joke: the joke; an `Unfinished` was cut at the token limit.
        teacher_index: teacher jokes of the training set that must not be copied; None: not checked.
    """
    if isinstance(joke, Unfinished):
        return "unfinished"
    line = joke.strip()
    if not line:
        return "empty"
    if len(line.splitlines()) > 1:
        return "lines"
    spoken = words(line)
    if _is_emoji_string(line, len(spoken)):
        return "emoji"
    if not spoken:
        return "empty"
    if is_loop(line):
        return "loop"
    if _META.search(line) and not _META.search(prompt):
        return "meta"
    if _JUDGE.search(line) and not _JUDGE.search(prompt):
        return "judge"
    if teacher_index is not None and not is_near_copy(prompt, line) and teacher_index.near(line):
        return "teacher-copy"
    return ""


def is_loop(line: str) -> bool:
    """Whether a line repeats itself: a word 5 times, 2-3 words 3 times or more words twice on end.

    A letter 10 times on end and long lines of few distinct words (< 0.35 of 16 or more) count too.
    """
    w = words(line)
    if _STUTTER.search(line) or (len(w) >= 16 and len(set(w)) < 0.35 * len(w)):
        return True
    return any(
        w[i : i + size * (times - 1)] == w[i + size : i + size * times]
        for size in range(1, len(w) // 2 + 1)
        for times in ((5, 3, 3)[size - 1] if size <= 3 else 2,)
        for i in range(len(w) - size * times + 1)
    )


def _is_emoji_string(line: str, n_words: int) -> bool:
    """Three or more pictures on end, or at least as many pictures as words."""
    total = longest = run = 0
    for char in line:
        if char in _JOINERS or char.isspace() or unicodedata.category(char) == "Sk":
            continue
        run = run + 1 if unicodedata.category(char) == "So" else 0
        total += run > 0
        longest = max(longest, run)
    return longest >= 3 or (total > 0 and total >= n_words)
