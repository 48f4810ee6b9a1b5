// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Bytes} from "./Bytes.sol";
import {Tables} from "./Tables.sol";

/// @notice Compares a platform, its TDX module and its quoting enclave with the tables of `TcbTexts`, in Intel's order (DCAP quote
///         verification library). Statuses are numbered best first: 0 UpToDate, 1 SWHardeningNeeded, 2 ConfigurationNeeded,
///         3 ConfigurationAndSWHardeningNeeded, 4 OutOfDate, 5 OutOfDateConfigurationNeeded, 6 Revoked, 7 NotSupported; 255 for none.
library Tcb {
    error ModuleUnknown(uint256 major);
    error ModuleLevelMissing(uint256 version);
    error QeLevelMissing(uint256 version);
    error QeIdentityMismatch();

    uint256 internal constant REVOKED = 6;
    uint256 internal constant NOT_SUPPORTED = 7;
    uint256 internal constant NONE = 255;

    uint256 private constant LANES = 0x00ff00ff00ff00ff00ff00ff00ff00ff;
    uint256 private constant CARRIES = 0x01000100010001000100010001000100;

    /// @notice Lowers a platform's status by its module's or quoting enclave's: revoked wins, out of date spreads, none changes nothing.
    function converge(uint256 platform, uint256 other) internal pure returns (uint256) {
        if (platform == REVOKED || other == REVOKED) return REVOKED;
        if (other == NOT_SUPPORTED) return NOT_SUPPORTED;
        if (other != 4) return platform;
        if (platform < 2) return 4;
        return platform < 4 ? 5 : platform;
    }

    /// @notice Finds the status of a module by its major version (byte 1 of TEE_TCB_SVN); none before version 1.
    function moduleStatus(bytes memory table, bytes16 teeTcbSvn) internal pure returns (uint256) {
        unchecked {
            uint256 major = uint8(teeTcbSvn[1]);
            if (major == 0) return NONE;
            uint256 p = 1;
            for (uint256 i = Tables.read(table, 0, 1); i > 0; i--) {
                uint256 levels = Tables.read(table, p + 1, 1);
                if (Tables.read(table, p, 1) == major) return levelOf(table, p + 2, levels, uint8(teeTcbSvn[0]));
                p += 2 + 2 * levels;
            }
            revert ModuleUnknown(major);
        }
    }

    function levelOf(bytes memory table, uint256 p, uint256 levels, uint256 svn) private pure returns (uint256) {
        unchecked {
            for (; levels > 0; levels--) {
                if (svn >= Tables.read(table, p, 1)) return Tables.read(table, p + 1, 1);
                p += 2;
            }
            revert ModuleLevelMissing(svn);
        }
    }

    /// @notice Finds the first level a platform and TEE_TCB_SVN reach; not supported where there is none.
    function platformStatus(bytes memory table, bytes16 components, uint256 pceSvn, bytes16 teeTcbSvn)
        internal
        pure
        returns (uint256)
    {
        unchecked {
            // From version 1.5 on, a module is judged by its identity, and its first two bytes not by the level.
            uint256 tee = uint128(teeTcbSvn);
            uint256 compared = uint8(teeTcbSvn[1]) > 0 ? type(uint112).max : type(uint128).max;
            uint256 p = levelsAt(table);
            for (uint256 i = Tables.read(table, p++, 1); i > 0; i--) {
                if (
                    pceSvn >= Tables.read(table, p + 32, 2) && atLeast(uint128(components), Tables.read(table, p, 16))
                        && atLeast(tee & compared, Tables.read(table, p + 16, 16) & compared)
                ) return Tables.read(table, p + 34, 1);
                p += 35;
            }
            return NOT_SUPPORTED;
        }
    }

    /// @notice Tells whether two TEE_TCB_SVNs differ at most in a byte that no level of a platform is compared with.
    function sameLevel(bytes16 one, bytes16 other) internal pure returns (bool) {
        return uint8(one[1]) > 0 && uint128(one ^ other) & type(uint120).max == 0;
    }

    function levelsAt(bytes memory table) private pure returns (uint256 p) {
        unchecked {
            p = 1;
            for (uint256 i = Tables.read(table, 0, 1); i > 0; i--) p += 2 + 2 * Tables.read(table, p + 1, 1);
        }
    }

    /// @dev Compares sixteen bytes at once: each lane of 16 bits keeps its carry exactly when the byte is at least the other.
    function atLeast(uint256 have, uint256 need) private pure returns (bool) {
        unchecked {
            uint256 even = ((have & LANES) | CARRIES) - (need & LANES);
            uint256 odd = (((have >> 8) & LANES) | CARRIES) - ((need >> 8) & LANES);
            return even & odd & CARRIES == CARRIES;
        }
    }

    /// @notice Compares a quoting enclave's report of 384 bytes with its identity, which begins at `p`, and finds the status of its version.
    function qeStatus(bytes memory table, uint256 p, bytes calldata report) internal pure returns (uint256) {
        unchecked {
            uint256 misc = ((Bytes.word(report, 16) >> 224) ^ Tables.read(table, p, 4)) & Tables.read(table, p + 4, 4);
            uint256 attributes = ((Bytes.word(report, 48) >> 128) ^ Tables.read(table, p + 8, 16)) & Tables.read(table, p + 24, 16);
            uint256 versions = Bytes.word(report, 256) >> 224;
            require(
                misc | attributes == 0 && Bytes.word(report, 128) == Tables.read(table, p + 40, 32)
                    && little(versions >> 16) == Tables.read(table, p + 72, 2), QeIdentityMismatch()
            );
            uint256 svn = little(versions & 0xffff);
            uint256 levels = Tables.read(table, p + 74, 1);
            p += 75;
            for (; levels > 0; levels--) {
                if (svn >= Tables.read(table, p, 2)) return Tables.read(table, p + 2, 1);
                p += 3;
            }
            revert QeLevelMissing(svn);
        }
    }

    function little(uint256 two) private pure returns (uint256) {
        return (two & 0xff) << 8 | two >> 8;
    }
}
