"""The public names; :mod:`hermes.aio` looks them up when they are first used."""

from hermes import errors as errors
from hermes.aio.client import Client as Client
from hermes.aio.client import connect as connect
from hermes.aio.publisher import Publisher as Publisher
from hermes.aio.subscription import Subscription as Subscription
from hermes.broker import Broker as Broker
from hermes.client import Batch as Batch
from hermes.client import Gap as Gap
from hermes.client import Message as Message
from hermes.client import Position as Position
from hermes.client import Start as Start
from hermes.errors import ConnectFailed as ConnectFailed
from hermes.errors import ConnectionLost as ConnectionLost
from hermes.errors import GapDetected as GapDetected
from hermes.errors import HermesError as HermesError
from hermes.errors import Refused as Refused
from hermes.errors import Timeout as Timeout
from hermes.native.api import get_include as get_include
from hermes.plugins.discovery import register_plugin as register_plugin
from hermes.plugins.discovery import register_storage as register_storage
from hermes.plugins.discovery import register_transport as register_transport

__version__: str
