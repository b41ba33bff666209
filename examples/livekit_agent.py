"""A LiveKit agent whose face is a camera of the room, or a file.

    lipwire serve &
    pip install ./clients/python ./clients/livekit
    LIPWIRE_URL=http://127.0.0.1:8080 LIPWIRE_FACE=face.jpg python examples/livekit_agent.py dev

Speech and language models are LiveKit's inference here; any plug-ins will do.
"""

from __future__ import annotations

import os

from livekit import agents
from livekit.agents import Agent, AgentSession, JobContext, WorkerOptions
from livekit.plugins import lipwire


async def entrypoint(ctx: JobContext) -> None:
    """Join a room and speak in it."""
    await ctx.connect()
    session: AgentSession[None] = AgentSession(
        stt="deepgram/nova-3", llm="openai/gpt-4.1-mini", tts="cartesia/sonic-2"
    )
    avatar = lipwire.AvatarSession(
        url=os.environ.get("LIPWIRE_URL", "http://127.0.0.1:8080"),
        token=os.environ.get("LIPWIRE_TOKEN"),
        face=os.environ.get("LIPWIRE_FACE"),
        consent=True,  # of the person who is shown
    )
    await avatar.start(session, room=ctx.room)
    await session.start(agent=Agent(instructions="Greet whoever comes."), room=ctx.room)


if __name__ == "__main__":
    agents.cli.run_app(WorkerOptions(entrypoint_fnc=entrypoint))
