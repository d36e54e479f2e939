"""Reading and writing media files: pictures, sounds and videos.

bounds.py      the arrays, the error, and how large a medium may be
pictures.py    pictures as upright sRGB on white, 8 bits deep
colours.py     from the colours of a profile to sRGB
endings.py     whether a picture file goes on to its end
headers.py     what FFmpeg does not tell of sound and video files
containers.py  what is in a sound or video file, and whether all of it is there
sounds.py      sounds as mono samples
videos.py      videos as upright sRGB frames

Arrays are the common currency: an image is uint8 `(height, width, 3)`, a sound is mono float32 `(samples,)` in [-1, 1]
with its rate in hertz, a video is uint8 `(frames, height, width, 3)` with its frames per second. Whoever accepts files
and whoever shows them to models decodes them here, so that what is accepted can be used.
"""

from omnialign.media.bounds import MAX_DECODED_BYTES, MIME_TYPES, MediaError, Pixels, Samples, too_large
from omnialign.media.pictures import read_image, write_image
from omnialign.media.sounds import PCM_PEAK, read_audio, write_audio
from omnialign.media.videos import read_video, write_video

__all__ = [
    "MAX_DECODED_BYTES",
    "MIME_TYPES",
    "PCM_PEAK",
    "MediaError",
    "Pixels",
    "Samples",
    "read_audio",
    "read_image",
    "read_video",
    "too_large",
    "write_audio",
    "write_image",
    "write_video",
]
