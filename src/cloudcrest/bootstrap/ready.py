async def become_ready(plan, ui):
    return None
