"""A client of lipwire servers: pictures and a new voice in, the same face speaking it out.

async with LipwireCall("http://127.0.0.1:8080", name="studio", consent=True) as call:
    call.send_image(rgb, (640, 480))
    await call.speak(pcm, 24_000)
    async for picture in call.frames("video"):
        ...
"""

from lipwire_client.call import LipwireCall
from lipwire_client.link import CallLost, Refused
from lipwire_client.media import Picture, Sound

__version__ = "0.1.0"
__all__ = ["CallLost", "LipwireCall", "Picture", "Refused", "Sound"]
