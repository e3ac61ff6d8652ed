"""Uses the generated client as a brand does: registers a fan, waits for the link, reads the rest of the API.

Arguments: the folder of the client, the URL and the token of the admin API, the fan's unionid and openid.
Prints the external_userid of the customer that is linked.
"""

import sys
import time

folder, url, token, unionid, openid = sys.argv[1:]
sys.path.insert(0, folder)

from unionlink_admin_api_client import AuthenticatedClient
from unionlink_admin_api_client.api.events import list_events, show_event
from unionlink_admin_api_client.api.fans import register_fans, show_fan
from unionlink_admin_api_client.api.links import find_links, read_feed
from unionlink_admin_api_client.api.people import explain
from unionlink_admin_api_client.api.service import show_status
from unionlink_admin_api_client.api.sinks import list_sinks
from unionlink_admin_api_client.models import FanRow, LinkData, ListEventsState


def eventually(check):
    """The result of `check`, once there is one."""
    give_up = time.monotonic() + 60
    while not (found := check()):
        assert time.monotonic() < give_up, explain.sync(unionid, client=client)
        time.sleep(0.05)
    return found


with AuthenticatedClient(base_url=url, token=token, raise_on_unexpected_status=True) as client:
    registered = register_fans.sync(client=client, body=FanRow(unionid=unionid, openid=openid))
    assert (registered.accepted, registered.known, registered.rejected) == (1, 0, []), registered

    (link,) = eventually(lambda: find_links.sync(client=client, unionid=unionid).links)
    eventually(lambda: show_fan.sync(unionid, client=client).state == "minted")
    eventually(lambda: explain.sync(unionid, client=client).code == "linked")

    def entries():
        return [entry.data for entry in read_feed.sync(client=client, limit=1000).entries]

    eventually(lambda: any(isinstance(data, LinkData) and data.unionid == unionid for data in entries()))

    status = show_status.sync(client=client)
    assert status.ready and status.links >= 1 and status.now > status.started_at, status
    mint = next(quota for quota in status.quotas if quota.api == "unionid_to_pending_id")
    assert mint.hour.limit == mint.hour.used + mint.hour.left and mint.forecast, mint
    assert status.calls["unionid_to_pending_id"] >= 1 and status.dealers["brand"].shared >= 1, status
    assert [sink.name for sink in list_sinks.sync(client=client).sinks] == ["crm"]

    (dead,) = list_events.sync(client=client, state=ListEventsState.DEAD).events
    assert dead.type_ == "add_external_contact" and dead.died_at > dead.created_at, dead
    (stray,) = list_events.sync(client=client, state=ListEventsState.QUARANTINED).events
    assert show_event.sync(stray.id, client=client).message.startswith("<xml>"), stray

    print(link.external_userid)
