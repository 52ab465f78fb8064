-- HAProxy asks each node for its state. It has no password, and may read nothing but the status of the server.
CREATE USER haproxy@'%' WITH MAX_USER_CONNECTIONS 8;
