"""Synthesise a sentence with eSpeak NG: 16-bit samples to standard output, the sampling rate to standard error.

The library keeps state between sentences, hence a new process. Usage: `espeak_child.py VOICE WORDS_PER_MINUTE TEXT`.
"""

import ctypes
import sys
from typing import Any, Final

import espeakng_loader

# Names and values of eSpeak NG's speak_lib.h.
AUDIO_OUTPUT_SYNCHRONOUS: Final = 2
ESPEAK_RATE: Final = 1
POS_CHARACTER: Final = 1
ESPEAK_CHARS_UTF8: Final = 1
SYNTH_CALLBACK: Final = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


def main(voice: str, words_per_minute: str, text: str) -> None:
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    library.espeak_Synth.argtypes = [
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_uint,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.c_uint,
        ctypes.c_void_p,
        ctypes.c_void_p,
    ]
    samples = bytearray()

    def keep(wave: Any, count: int, events: int | None) -> int:
        if wave and count:
            samples.extend(ctypes.string_at(wave, count * ctypes.sizeof(ctypes.c_short)))
        return 0

    callback = SYNTH_CALLBACK(keep)
    rate = library.espeak_Initialize(AUDIO_OUTPUT_SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), 0)
    if rate <= 0:
        raise SystemExit("eSpeak NG did not start")
    library.espeak_SetSynthCallback(callback)
    if library.espeak_SetVoiceByName(voice.encode()):
        raise SystemExit(f"eSpeak NG has no voice {voice!r}")
    library.espeak_SetParameter(ESPEAK_RATE, int(words_per_minute), 0)
    sentence = text.encode()
    if library.espeak_Synth(sentence, len(sentence) + 1, 0, POS_CHARACTER, 0, ESPEAK_CHARS_UTF8, None, None):
        raise SystemExit("eSpeak NG failed")
    library.espeak_Synchronize()
    sys.stdout.buffer.write(bytes(samples))
    sys.stderr.write(str(rate))


if __name__ == "__main__":
    main(*sys.argv[1:])
