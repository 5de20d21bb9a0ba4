import type { Peer } from "peerjs";

/** What a room tells: `room.addEventListener("joined", (e) => show(e.detail.id))`. */
export interface RoomEvents<D = unknown> {
  /** A member is new to this page. At the first join, there is one event for each member, this peer included. */
  joined: CustomEvent<{ id: string; data: D | undefined }>;
  /**
   * A member is gone. The reason is "left", the text of a reason of the server ("connection lost"), "unknown" for a
   * member that left while this peer was not connected, or "refused" for all members when this peer may not come back.
   */
  left: CustomEvent<{ id: string; data: D | undefined; reason: string }>;
  /** This peer is a member, and the server has sent the whole list, also after a reconnect. `members` is the room's. */
  members: CustomEvent<{ members: ReadonlyMap<string, D | undefined> }>;
  /** The server does not let this peer join. The room asks again when the peer has reconnected. */
  refused: CustomEvent<{ reason: string }>;
}

/** A room that this page has joined. D is the type of the data of members, which nobody checks. */
export interface Room<D = unknown> extends Omit<EventTarget, "addEventListener" | "removeEventListener"> {
  readonly name: string;
  /** The members that the page has been told of: id -> data. It is always the same map, and this peer is in it. */
  readonly members: ReadonlyMap<string, D | undefined>;
  /** The ids of all members but this peer. */
  others(): string[];
  /**
   * Sends data to each other member that has an open data connection with this peer, over one such connection.
   * It returns to how many. It opens no connection, and sends nothing through the server.
   */
  broadcast(data: unknown): number;
  /**
   * Leaves the room for good: each member is told as left, and no event follows. It may be called again.
   * `peer.destroy()` leaves too.
   */
  leave(): void;
  addEventListener<K extends keyof RoomEvents<D>>(
    type: K,
    listener: ((event: RoomEvents<D>[K]) => void) | { handleEvent(event: RoomEvents<D>[K]): void } | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<K extends keyof RoomEvents<D>>(
    type: K,
    listener: ((event: RoomEvents<D>[K]) => void) | { handleEvent(event: RoomEvents<D>[K]): void } | null,
    options?: boolean | EventListenerOptions,
  ): void;
}

/**
 * Joins a room as soon as the peer is open, and again after each reconnect. Other members read the data: JSON of at
 * most 1,024 bytes. Have one room for a name and a peer, until you have left it.
 */
export declare function join<D = unknown>(peer: Peer, name: string, data?: unknown): Room<D>;

/**
 * Puts the ICE servers that the server sends into `peer.options.config`, for the connections that the peer makes
 * from then on. Call it once, right after `new Peer`: the server sends them before the peer is open.
 */
export declare function ice(peer: Peer): void;
