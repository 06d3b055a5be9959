package rtnl

// Numbers of linux/if_link.h, linux/if_bridge.h and linux/netlink.h that package syscall lacks.
const (
	flagRequest = 0x1
	flagAck     = 0x4
	flagExcl    = 0x200
	flagReplace = 0x100
	flagCreate  = 0x400
	flagDump    = 0x300

	messageError = 0x2
	messageDone  = 0x3
	multiPart    = 0x2
	dumpBroken   = 0x10 // NLM_F_DUMP_INTR: something changed while it was told
	ackTLVs      = 0x200
	ackMessage   = 1 // NLMSGERR_ATTR_MSG

	nested = 0x8000

	linkInfoKind      = 1
	linkInfoData      = 2
	linkInfoSlaveKind = 4
	linkInfoSlaveData = 5

	linkAlias    = 20
	linkStats64  = 23
	linkAFSpec   = 26
	linkGroup    = 27
	linkNetNSFD  = 28
	linkExtMask  = 29
	linkTxQueues = 31
	linkRxQueues = 32

	vethPeer = 1

	bridgeForwardDelay  = 1
	bridgeMcastSnooping = 23

	bridgePortMode = 4 // hairpin

	inetConf           = 1
	inetRouteLocalnet  = 26
	extMaskSkipStats   = 8
	addressFlags       = 8
	addressNoDAD       = 0x02
	routeProtocolBoot  = 3
	learntByRA         = 9 // RTPROT_RA
	routeTypeUnicast   = 1
	routeTableMain     = 254
	routeScopeUniverse = 0
)
