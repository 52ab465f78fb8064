// The explanations of all terms: title, text, link and, unless it is the documentation of the pool, the text of the link.

const DOC = "docs/POOL.md";
const WORKS = `${DOC}#how-it-works`;
const BATCHING = `${DOC}#batching`;
const BULK = `${DOC}#bulk-operations`;
const OPENING = `${DOC}#opening-connections`;
const HEALTH = `${DOC}#health-up-down-recovering`;
const STRANDED = `${DOC}#stranded-operations`;
const SETTINGS = `${DOC}#settings`;
const SIZE = `${DOC}#how-to-size-it`;
const SITUATIONS = `${DOC}#how-to-read-pool-in-six-situations`;
const FEED = ["docs/FEED.md", "Description of the messages"];

export const GLOSSARY = {
  // Health
  health: ["Health", "Whether the database responds. Every response on any connection counts; probes are sent only if responses are missing.", HEALTH],
  up: ["Up", "The database responds. Operations are served.", HEALTH],
  recovering: ["Recovering", "The database responds again. Operations are served while connections are opened, up to pool.min.", HEALTH],
  down: ["Down", "The database does not respond on any connection. After a short wait, operations are refused immediately with the cause.", HEALTH],
  draining: ["Draining", "The service shuts down. Running operations finish; waiting ones are refused.", HEALTH],
  closed: ["Closed", "The pool is closed. It serves no operation.", HEALTH],
  cause: ["Cause", "The error of the server or of the operating system that made the database count as down.", SITUATIONS],
  hosts: ["Hosts", "The hosts of the database URL. Each new connection goes to the first one that works, or to a random one.", `${DOC}#several-hosts`],
  shortage: ["Shortage", "The open connections work, but no further one can be opened. The service continues with those that it has.", HEALTH],
  impairment: ["Impairment", "The server executes some statements but refuses others, usually writes: it is read-only, or its disk is full.", HEALTH],
  phase: ["Phase", "A step of the start or the shutdown of the service: serving, not-ready, closing-connections, draining, closing.", HEALTH],
  pooler: ["Pooler", "A connection pooler between this service and the database, and its mode.", OPENING],
  viewers: ["Viewers", "Open pages that receive these live data.", WORKS],
  // Connections
  connections: ["Connections", "Open sessions with the database. Opening one is slow, so the pool keeps them and lends them to operations. Each keeps its cell while it is open.", WORKS],
  idle: ["Idle", "Open, and no operation uses it. The one that was used last is reused first.", WORKS],
  "in-use": ["In use", "One operation, or one batch, holds the connection. The fill shows how much of the last 2 seconds it was in use.", WORKS],
  opening: ["Opening", "A connection is being opened in the background: for waiting operations, for pool.min or for a probe.", OPENING],
  closing: ["Closing", "A connection is being closed, because it is idle, old, replaced or broken.", SETTINGS],
  validating: ["Validating", "A connection is being pinged before it is used, because it has been idle for long or another one was lost.", WORKS],
  stranded: ["Stranded", "In use without a response for 1.5 s while the database is down. Its operation is aborted if the response does not arrive.", STRANDED],
  free: ["Free", "Room below pool.max: no connection is open in this place.", SETTINGS],
  total: ["Open", "All open connections: idle, in use, closing and validating. A probe may exceed pool.max by one.", SIZE],
  holders: ["Longest holders", "The operations that have held their connection for the longest time. Long ones block the others.", SITUATIONS],
  // Queue
  queue: ["Queue", "Operations without a connection wait here, in the order of their arrival. The queue has a limit.", WORKS],
  waiting: ["Waiting", "Operations in the queue. In a healthy pool the number is at or near 0.", SITUATIONS],
  waiters: ["Longest waiters", "The operations that have waited for a connection for the longest time.", SITUATIONS],
  refused: ["Refused", "Operations that got no connection. Their clients receive 503 with the reason and Retry-After.", SITUATIONS],
  refusedBusy: ["Refused: busy", "On arrival: the queue is full, or the predicted wait is longer than the acquire timeout, or waiting is disabled.", SITUATIONS],
  timedOut: ["Refused: timed out", "The operation has waited for the acquire timeout, or until the deadline of its request.", SETTINGS],
  refusedDown: ["Refused: down", "The database is down. Waiting would not help.", HEALTH],
  refusedClosing: ["Refused: closing", "The service shuts down.", HEALTH],
  // Times
  wait: ["Wait time", "The time that an operation waits in the queue for a connection. Its 99th percentile is far below the median use time in a healthy pool.", SITUATIONS],
  use: ["Use time", "The time that an operation holds its connection, also called hold time.", SIZE],
  p50: ["p50, the median", "Half of the operations took at most this long.", SITUATIONS],
  p99: ["p99", "99 of 100 operations took at most this long.", SITUATIONS],
  // Batching and bulk
  operations: ["Operations", "Completed operations, each with one connection or as a member of a batch.", WORKS],
  failed: ["Failed", "Operations that ended with an error.", WORKS],
  batches: ["Batches", "Statements or transactions that served several operations together.", BATCHING],
  batched: ["Batched", "Operations that were served as members of batches.", BATCHING],
  batchSize: ["Mean batch size", "Operations per batch: batched ÷ batches. No operation waits for a minimum size, so batches grow only under load.", BATCHING],
  bulk: ["Bulk permits", "Each chunk of an import and each page of an export needs a permit, so that they leave connections to other operations.", BULK],
  bulkWaiting: ["Waiting for a permit", "Chunks and pages that wait until a permit is returned. They are not in the queue yet.", BULK],
  retriedConflicts: ["Retried: conflicts", "Retries after a deadlock, a serialization failure or a lock timeout.", `${DOC}#retry-policy`],
  retriedReads: ["Retried: reads", "Reads that were retried on another connection.", `${DOC}#retry-policy`],
  retriedTransactions: ["Retried: transactions", "Transactions that were retried as a whole on another connection.", `${DOC}#retry-policy`],
  opened: ["Opened", "Connections that were opened.", OPENING],
  dialsFailed: ["Failed connection attempts", "Attempts to open a connection that failed.", OPENING],
  closedIdle: ["Closed: idle", "Connections above pool.min that were not used for pool.idle.", SETTINGS],
  closedLifetime: ["Closed: lifetime", "Connections that reached pool.lifetime.", SETTINGS],
  closedReplaced: ["Closed: replaced", "Connections that were replaced, for example after a reload or an impairment.", SITUATIONS],
  closedBroken: ["Closed: broken", "Connections that were lost, or whose statement was killed.", STRANDED],
  closedSessionChanged: ["Closed: session changed", "Connections whose operation changed the state of the session.", `${DOC}#transactions-and-sessions`],
  strandedCount: ["Stranded", "Operations that were aborted because the database did not respond.", STRANDED],
  slowHolds: ["Slow holds", "Operations that held their connection for longer than pool.slow_hold. Each is logged once.", SETTINGS],
  // Settings
  max: ["pool.max", "Maximum number of connections.", SIZE],
  min: ["pool.min", "Connections that stay open when idle.", SETTINGS],
  queueLimit: ["pool.queue_limit", "Maximum number of waiting operations.", SETTINGS],
  waitSetting: ["pool.wait", "Whether operations wait when all connections are in use.", SETTINGS],
  batch: ["pool.batch", "Whether concurrent operations of the same kind share statements.", BATCHING],
  batchMax: ["pool.batch_max", "Maximum number of operations in a batch.", BATCHING],
  bulkShare: ["pool.bulk_share", "Share of connections and time for imports and exports.", BULK],
  acquireMs: ["pool.acquire, the acquire timeout", "Longest wait for a connection.", SETTINGS],
  idleMs: ["pool.idle", "A connection above pool.min that is not used for this long is closed.", SETTINGS],
  lifetimeMs: ["pool.lifetime", "A connection is replaced after this time.", SETTINGS],
  statementTimeoutMs: ["pool.statement_timeout", "Maximum run time of a statement.", SETTINGS],
  // Advice
  advice: ["Advice", "Computed from the last 1 to 2 minutes: operations per second × hold time gives the busy connections, plus a reserve for bursts.", SIZE],
  busy: ["Busy connections", "Connections that are in use on average.", SIZE],
  suggestedMax: ["Suggested pool.max", "The average plus three times its square root, for bursts.", SIZE],
  instancesThatFit: ["Instances that fit", "Instances of this service, each with pool.max + 1 connections, that the server's limit allows.", SIZE],
  serverMaxConnections: ["Connection limit of the server", "The connections that the server allows to this service.", SIZE],
  // Feed
  feed: ["Live feed", "Delivers every change of a user, in one order, to all clients of all processes.", ...FEED],
  broker: ["Broker", "Reports the changes of other processes at once. Without a connected broker the feed polls the database, which is slower and loses nothing.", ...FEED],
  subscribers: ["Subscribers", "Clients that are connected to the feed of this process.", ...FEED],
  position: ["Position", "The position of the last change that this process has delivered. Clients continue after it.", ...FEED],
};
